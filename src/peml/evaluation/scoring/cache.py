"""Keys and values of a trunk, held once for all rows behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class TrunkCache(Cache):
    """A trunk's keys and values, one part for each trunk it is made of.

    Unlike Transformers' caches it keeps a single copy: rows get it in front of their own keys while
    their layer is computed, and leave nothing behind. A pass adds a part only while `growing`.

    Attributes:
        parent: The trunk this one goes on from.
        length: Cached positions, those of the parents included.
        growing: Whether the pass at hand is the trunk's own.
    """

    def __init__(self, parent: TrunkCache | None, length: int) -> None:
        super().__init__(layers=[])
        self.parent = parent
        self.length = length
        self.growing = True
        self._own: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The trunk's keys and values in front of a pass's own.

        Args:
            key_states: (rows, kv_heads, size, head_dim); values likewise.
            value_states: (rows, kv_heads, size, head_dim).
            layer_idx: Which layer asks.
            *args: What other caches use.
            **kwargs: What other caches use.
        """
        if self.growing:
            self._own[layer_idx] = (key_states, value_states)
        parts = self._parts(layer_idx)
        if not self.growing:
            rows = len(key_states)
            parts = [(key.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for key, v in parts]
            parts.append((key_states, value_states))
        keys, values = zip(*parts, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def _parts(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        before = [] if self.parent is None else self.parent._parts(layer)
        return [*before, self._own[layer]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cached positions in front of the pass at hand."""
        before = 0 if self.parent is None else self.parent.length
        return before if self.growing else self.length
