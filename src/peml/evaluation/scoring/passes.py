"""The forward passes of decoder-only models over trees of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from peml.evaluation.scoring.layout import Layout
from peml.models import TaskModel
from peml.models.logits import Positions

Array = np.ndarray[Any, Any]


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


class TreePass:
    """Runs layouts through a model and adds up the log-likelihoods of their targets.

    `totals` has the log-likelihood of each request so far, (requests,) float64.
    """

    def __init__(self, base: TaskModel, totals: Tensor) -> None:
        self.base, self.totals = base, totals
        self.prompt = base.prompt.vectors

    def trunk(
        self, layout: Layout, task_id: int, parent: TrunkCache | None, *, counts: bool = True
    ) -> TrunkCache:
        """Computes a trunk that continues its parent, and stores its keys and values.

        Its targets are added if `counts`; else another process adds them.
        """
        new = len(layout.tokens)
        if parent is None:
            new += 0 if self.prompt is None else len(self.prompt)
        cache = TrunkCache(parent, new + (0 if parent is None else parent.length))
        self.rows([layout], [task_id], cache, counts=counts)
        cache.growing = False
        return cache

    def rows(
        self,
        layouts: Sequence[Layout],
        task_ids: Sequence[int],
        cache: TrunkCache | None,
        *,
        counts: bool = True,
    ) -> None:
        """Computes rows that continue the cached trunk, if there is one."""
        base, device = self.base, self.base.device
        past = 0 if cache is None else cache.get_seq_length()
        ids, depths, sees = _padded(layouts, base.family.tokenizer.pad_token_id)
        prompt = self.prompt if past == 0 else None
        front = 0 if prompt is None else len(prompt)
        tokens = torch.from_numpy(ids).to(device)
        inputs = {"input_ids": tokens}
        if prompt is not None:
            embedded = base.backbone.get_input_embeddings()(tokens)
            vectors = prompt.to(device=embedded.device, dtype=embedded.dtype)
            inputs = {"inputs_embeds": torch.cat([vectors.expand(len(ids), -1, -1), embedded], 1)}
        shift = 0 if self.prompt is None else len(self.prompt)
        positions = torch.from_numpy(depths + shift).to(device)
        if prompt is not None:
            before = torch.arange(front, device=device).expand(len(layouts), -1)
            positions = torch.cat([before, positions], 1)
        base.routing.set(torch.tensor(task_ids, device=device))
        nll, request = self._read(
            layouts,
            front + ids.shape[1],
            **inputs,
            attention_mask=self._mask(torch.from_numpy(sees).to(device), past, front),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        if counts:
            self.totals.index_add_(0, request, -nll.to(self.totals))

    def _mask(self, sees: Tensor, past: int, front: int) -> Tensor:
        """Additive mask, (rows, 1, front + width, past + front + width).

        All tokens see the trunk and the prompt.
        """
        rows, width, _ = sees.shape
        dtype = self.base.backbone.dtype
        hidden = torch.finfo(dtype).min
        mask = torch.zeros(
            rows, 1, front + width, past + front + width, dtype=dtype, device=sees.device
        )
        mask[:, 0, front:, past + front :].masked_fill_(~sees, hidden)
        if front:
            later = torch.ones(front, front + width, dtype=torch.bool, device=sees.device).triu_(1)
            mask[:, 0, :front].masked_fill_(later, hidden)
        return mask

    def _read(self, layouts: Sequence[Layout], width: int, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Runs the model; returns -log p(target) of every read, and the request it is of."""
        rows = np.concatenate([np.full(len(one.slots), n) for n, one in enumerate(layouts)])
        places = np.concatenate([one.slots + width - len(one.tokens) for one in layouts])
        targets = np.concatenate([one.targets for one in layouts])
        requests = np.concatenate([one.requests for one in layouts])
        row, place, target, request = (
            torch.from_numpy(part).to(self.base.device)
            for part in (rows, places, targets, requests)
        )
        positions = Positions(row, place, everywhere=self.base.family.logits_everywhere)
        return positions.nll(self.base.backbone, target, **inputs), request


def _padded(layouts: Sequence[Layout], pad: int) -> tuple[Array, Array, Array]:
    """Token ids and depths, (rows, width), and attention, (rows, width, width), padded on the left.

    Padding attends to itself: attention over no keys at all would be undefined.
    """
    width = max(len(layout.tokens) for layout in layouts)
    ids = np.full((len(layouts), width), pad, dtype=np.int64)
    depths = np.zeros_like(ids)
    sees = np.zeros((len(layouts), width, width), dtype=np.bool_)
    for row, layout in enumerate(layouts):
        begin = width - len(layout.tokens)
        ids[row, begin:], depths[row, begin:] = layout.tokens, layout.depths
        sees[row, begin:, begin:] = layout.sees
        sees[row, range(begin), range(begin)] = True
    return ids, depths, sees
