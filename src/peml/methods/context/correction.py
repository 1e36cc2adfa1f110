"""Trained numbers that are added to the keys and values of contexts."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from peml.methods.base import ParameterGroup, Part
from peml.methods.context.settings import CorrectionSettings
from peml.prefix.prefix import Prefix
from peml.prefix.shape import PrefixShape
from peml.switch import Switch


class Correction(nn.Module, Part):
    """A matrix of numbers per task, free or of low rank, zero at the start.

    Sources: keys and values that start at those of demonstrations and are trained, with dropout of
    positions (Context Tuning, arXiv 2507.04221); the frozen first position (Cartridges, arXiv
    2506.06266).
    """

    name = "correction"

    def __init__(
        self, shape: PrefixShape, lengths: Sequence[int], settings: CorrectionSettings, seed: int
    ) -> None:
        super().__init__()
        self._settings = settings
        self._switch = Switch()
        rows = [max(0, length - settings.frozen_positions) for length in lengths]
        outer = (shape.layers, settings.halves)
        channels = shape.kv_heads * shape.head_dim
        self._heads = (shape.kv_heads, shape.head_dim)
        self.first = nn.ParameterList()
        if settings.kind == "low-rank":
            generator = torch.Generator().manual_seed(seed)
            for count in rows:
                drawn = torch.randn(*outer, count, settings.rank, generator=generator)
                self.first.append(nn.Parameter(drawn / settings.rank**0.5))
            rows = [settings.rank] * len(rows)
        self.last = nn.ParameterList(torch.zeros(*outer, count, channels) for count in rows)

    def add(self, task: int, context: Prefix) -> Prefix:
        """A task's corrected context; in training some positions may be dropped."""
        if not self._switch.is_on:
            return context
        frozen = self._settings.frozen_positions
        # (layers, halves, positions, channels) -> (layers, halves, kv_heads, positions, head_dim)
        added = self._rows(task).unflatten(-1, self._heads).transpose(2, 3)
        added = functional.pad(added, (0, 0, frozen, 0, 0, 0, 2 - added.shape[1], 0))
        corrected = Prefix(context.tensor + added, context.active)
        if self.training and self._settings.dropout:
            return corrected.without_some(self._settings.dropout, keep=frozen)
        return corrected

    def _rows(self, task: int) -> Tensor:
        last: Tensor = self.last[task]
        return self.first[task] @ last if len(self.first) else last

    def groups(self) -> list[ParameterGroup]:
        decay = self._settings.weight_decay
        options = {} if decay is None else {"weight_decay": decay}
        parameters = list(self.parameters())
        return [ParameterGroup(self.name, parameters, self._settings.learning_rate, options)]

    def disabled(self) -> AbstractContextManager[None]:
        return self._switch.off()
