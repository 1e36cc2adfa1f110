"""Decoder-only models: common beginnings of sequences are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peml.evaluation.scoring.cache import TrunkCache
from peml.evaluation.scoring.layout import lay_out
from peml.evaluation.scoring.passes import TreePass
from peml.evaluation.scoring.planning import Group, plan_groups
from peml.evaluation.scoring.requests import Request
from peml.evaluation.scoring.trie import Trie
from peml.models import TaskModel


@torch.no_grad()
def score_trees(
    base: TaskModel, requests: Sequence[Request], tokens: int, saving: int | None = None
) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64.

    The requests become a trie of token ids, so nothing is assumed about where a tokenizer splits
    context and option. Trunks are visited depth first and dropped after their rows: the cache never
    holds more than one path, at most as long as the longest request.

    Args:
        base: The model, including attached methods.
        requests: Options after their contexts. The first token of a sequence is not scored.
        tokens: Maximum tokens per batch, padding and cached tokens included.
        saving: Tokens that a cached trunk must save; default: a quarter of a batch.
    """
    totals = torch.zeros(len(requests), dtype=torch.float64, device=base.device)
    walk = _Walk.over(requests, tokens, TreePass(base, totals))
    walk.compute(plan_groups(walk.trie, tokens, saving), None)
    return totals.cpu()


@dataclass(frozen=True)
class _Walk:
    """One traversal of a plan."""

    requests: Sequence[Request]
    sequences: list[tuple[int, ...]]
    firsts: list[int]
    trie: Trie
    tokens: int
    model: TreePass

    @classmethod
    def over(cls, requests: Sequence[Request], tokens: int, model: TreePass) -> _Walk:
        sequences = [request.context + request.option for request in requests]
        firsts = [max(len(request.context), 1) for request in requests]
        # The last token is predicted only.
        trie = Trie([s[:-1] for s in sequences], [request.task_id for request in requests])
        return cls(requests, sequences, firsts, trie, tokens, model)

    def task(self, place: int) -> int:
        return self.requests[int(self.trie.order[place])].task_id

    def compute(self, group: Group, cache: TrunkCache | None) -> None:
        """Computes a group's trunk, its rows, and the groups that continue it."""
        if group.depth > group.start:
            run, start = (group.first, group.stop), group.start
            trunk = lay_out(self.trie, self.sequences, self.firsts, run, start, group.depth)
            cache = self.model.trunk(trunk, self.task(group.first), cache)
        for batch in group.batches(self.tokens, self.trie.longest):
            layouts = [
                lay_out(self.trie, self.sequences, self.firsts, (row.first, row.stop), group.depth)
                for row in batch
            ]
            self.model.rows(layouts, [self.task(row.first) for row in batch], cache)
        for longer in group.groups:
            self.compute(longer, cache)
