"""The prompt as a trainable part: vectors, and the place in the model that takes them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.methods.base import ParameterGroup, Part
from peml.models import TaskModel


def draw_embeddings(model: TaskModel, length: int, generator: torch.Generator) -> Tensor:
    """Input embeddings of ordinary tokens, (length, channels), none twice if there are enough."""
    # Some matrices have more rows than there are tokens, for round numbers.
    rows = model.backbone.get_input_embeddings().weight.shape[0]
    tokenizer = model.family.tokenizer
    special = set(tokenizer.all_special_ids)
    known = [token for token in range(min(rows, len(tokenizer))) if token not in special]
    order = torch.randperm(len(known), generator=generator)
    tokens = torch.tensor(known)[order[torch.arange(length) % len(known)]]
    with torch.no_grad():
        # Through the module: some models scale their embeddings there.
        vectors: Tensor = model.backbone.get_input_embeddings()(tokens.to(model.device))
    return vectors


class PromptPart(nn.Module, Part):
    """Puts learnt vectors in front of the input embeddings.

    Args:
        model: Takes the vectors.
        vectors: Where they start, (prompt_length, channels).
        learning_rate: Default rate of the group `prompt`.
    """

    name = "prompt"

    def __init__(self, model: TaskModel, vectors: Tensor, learning_rate: float) -> None:
        super().__init__()
        # Trained in float32 whatever the frozen weights are stored in.
        self.vectors = nn.Parameter(vectors.detach().float().clone())
        self._prompt = model.prompt
        self._learning_rate = learning_rate

    def prepare(self, batch: TaskBatch | None = None) -> None:
        """Puts the vectors in front."""
        self._prompt.set(self.vectors)

    def groups(self) -> list[ParameterGroup]:
        """One group, `prompt`, without decay: the vectors start far from zero."""
        still = {"weight_decay": 0.0}
        return [ParameterGroup("prompt", [self.vectors], self._learning_rate, still)]

    def disabled(self) -> AbstractContextManager[None]:
        """The model without its prompt."""
        return self._prompt.disabled()

    def merge(self) -> None:
        """Leaves the vectors beside the weights as numbers."""
        self._prompt.set(self.vectors.detach().clone())
