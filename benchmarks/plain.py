"""The rivals: PEFT's LoRA on plain Transformers models, as one would write it without PEML."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel

from peml.models.embedded import EMBEDDED, embedded_model
from peml.models.heads import TaskHeads
from peml.run.preparation import Prepared

__all__ = ["PlainLora", "TokenCount"]


class _Output(NamedTuple):
    loss: Tensor


class TokenCount:
    """Counts the real tokens that a model is given, without waiting for a GPU.

    Args:
        model: Called with ``attention_mask``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._counts: list[Tensor] = []
        model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, model: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        self._counts.append(named["attention_mask"].sum())

    def take(self) -> int:
        """The tokens since the last call."""
        total = sum(int(count) for count in self._counts)
        self._counts = []
        return total


class PlainLora(nn.Module):
    """A PEFT model, mean pooling and one head per task; the same arithmetic as PEML's ``lora``.

    The encoder is built without its pooler, which no head would read; PEML drops it too.

    Args:
        prepared: Names the model, the tasks and the seed.
        r: Rank.
        alpha: LoRA's alpha.
    """

    def __init__(self, prepared: Prepared, *, r: int, alpha: float) -> None:
        super().__init__()
        name = prepared.config.model.name
        folder = str(embedded_model(name)) if name in EMBEDDED else name
        encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        config = LoraConfig(r=r, lora_alpha=int(alpha), target_modules="all-linear")
        self.encoder: Any = get_peft_model(encoder, config)
        self.heads = TaskHeads(
            prepared.tasks, encoder.config.hidden_size, torch.Generator().manual_seed(0)
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        targets: Tensor,
        task_ids: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> _Output:
        """The mean loss of a padded batch."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.to(hidden.dtype)[:, :, None]
        logits = self.heads((hidden * mask).sum(1) / mask.sum(1))
        rows = torch.arange(len(targets), device=targets.device)
        losses = self.heads.losses(logits, targets, task_ids, rows, len(rows))
        return _Output(losses.mean())
