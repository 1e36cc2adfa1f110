"""Prompt tuning: learnt vectors in front of the input embeddings (Lester et al., 2104.08691)."""

import inspect
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings, ParameterGroup, Part
from peml.methods.prefix.settings import PromptTuningSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.models import TaskModel, check_prompt


class PromptPart(nn.Module, Part):
    """Puts learnt vectors in front of the input embeddings.

    ``vectors``, (prompt_length, channels), are their start.
    """

    name = "prompt"

    def __init__(self, model: TaskModel, vectors: Tensor, learning_rate: float) -> None:
        super().__init__()
        # Trained in float32, whatever the type of the frozen weights.
        self.vectors = nn.Parameter(vectors.detach().float().clone())
        self._prompt = model.prompt
        self._learning_rate = learning_rate

    def prepare(self, batch: TaskBatch | None = None) -> None:
        self._prompt.set(self.vectors)

    def groups(self) -> list[ParameterGroup]:
        """One group, `prompt`, without decay: the vectors start far from zero."""
        still = {"weight_decay": 0.0}
        return [ParameterGroup("prompt", [self.vectors], self._learning_rate, still)]

    def disabled(self) -> AbstractContextManager[None]:
        return self._prompt.disabled()

    def merge(self) -> None:
        self._prompt.set(self.vectors.detach().clone())


class PromptTuning(Method):
    """A prompt in front of the input."""

    settings_type: ClassVar[type[MethodSettings]] = PromptTuningSettings
    settings: PromptTuningSettings

    @property
    def prompt_length(self) -> int:
        return self.settings.length

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds the prompt.

        Raises:
            ModelError: The model's learned positions have no room for it, or it can't generate
                texts behind vectors.
        """
        check_prompt(model.family, self.settings.length)
        _refuse_texts(model)
        generator = torch.Generator().manual_seed(context.seed)
        length, embed = self.settings.length, model.backbone.get_input_embeddings()
        if self.settings.start == "normal":
            channels = embed.weight.shape[1]
            vectors = torch.randn(length, channels, generator=generator).to(model.device)
        else:
            tokens = _draw_tokens(model, length, generator)
            with torch.no_grad():
                vectors = embed(tokens)  # through the module: some models scale embeddings there
        part = PromptPart(model, vectors, self.settings.learning_rate)
        return AttachedModel(model, {part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {"prompt": self.settings.length * shape.hidden_size}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another length, within the model's free positions."""
        length = nearest_size(lambda n: n * shape.hidden_size, budget)
        if shape.free_positions is not None:
            length = max(1, min(length, shape.free_positions))
        return self.settings.model_copy(update={"length": length})


def _refuse_texts(model: TaskModel) -> None:
    """Refuses tasks that generate texts on decoders such as Bamba, which generate from ids only."""
    tasks = [task.name for task in model.tasks if task.type.generates]
    if not tasks or model.backbone.config.is_encoder_decoder:
        return
    taken = inspect.signature(model.backbone.prepare_inputs_for_generation).parameters
    if "inputs_embeds" not in taken:
        raise ModelError(
            f"{type(model.backbone).__name__} can't generate texts behind a prompt of vectors, as "
            f"{', '.join(tasks)} would need",
            allowed="tasks that score options, or another method",
            action=f"choose method.name: lora, or leave them out (tasks.exclude: "
            f"[{', '.join(tasks)}])",
        )


def _draw_tokens(model: TaskModel, length: int, generator: torch.Generator) -> Tensor:
    """Ordinary tokens, (length,), without repetition if there are enough."""
    # Some matrices have more rows than there are tokens, to round their number.
    rows = model.backbone.get_input_embeddings().weight.shape[0]
    tokenizer = model.family.tokenizer
    special = set(tokenizer.all_special_ids)
    known = [token for token in range(min(rows, len(tokenizer))) if token not in special]
    order = torch.randperm(len(known), generator=generator)
    return torch.tensor(known)[order[torch.arange(length) % len(known)]].to(model.device)
