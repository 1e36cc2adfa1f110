"""Keys and values of a trunk, stored once for all rows that continue it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class TrunkCache(Cache):
    """A trunk's keys and values; those of its parents stay in their own caches.

    Unlike Transformers' caches it stores a single copy for all rows: `update` puts it in front of
    the rows' own keys, which are not stored. Keys are stored only while `growing`.

    Attributes:
        parent: The trunk that this one continues.
        length: Cached positions, including the parents'.
        growing: Whether the current forward pass computes the trunk itself.
    """

    def __init__(self, parent: TrunkCache | None, length: int) -> None:
        super().__init__(layers=[])
        self.parent = parent
        self.length = length
        self.growing = True
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The trunk's keys and values, followed by those of the current pass.

        Both are (rows, kv_heads, size, head_dim); further arguments of Transformers' interface are
        ignored.
        """
        if self.growing:
            self._stored[layer_idx] = (key_states, value_states)
        parts = self._parts(layer_idx)
        if not self.growing:
            rows = len(key_states)
            parts = [(key.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for key, v in parts]
            parts.append((key_states, value_states))
        keys, values = zip(*parts, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def _parts(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        before = [] if self.parent is None else self.parent._parts(layer)
        return [*before, self._stored[layer]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cached positions in front of the current pass."""
        before = 0 if self.parent is None else self.parent.length
        return before if self.growing else self.length
