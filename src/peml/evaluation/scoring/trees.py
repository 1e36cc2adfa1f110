"""Decoder-only models: common beginnings of sequences are computed once."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from peml.evaluation.scoring.layout import Layout, lay_out
from peml.evaluation.scoring.passes import TreePass, TrunkCache
from peml.evaluation.scoring.planning import Group, Row, plan_groups
from peml.evaluation.scoring.requests import Request
from peml.evaluation.scoring.trie import Trie
from peml.models import TaskModel
from peml.models.limits import pass_limits


@torch.no_grad()
def score_trees(
    base: TaskModel, requests: Sequence[Request], tokens: int, saving: int | None = None
) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64.

    The requests become a trie of token ids, so nothing is assumed about where a tokenizer splits
    context and option. Trunks are visited depth first and dropped after their rows: the cache never
    holds more than one path, at most as long as the longest request. Several processes share the
    passes; each computes the trunks that it needs.

    The first token of a sequence is not scored. A batch has at most so many `tokens`, padding and
    cached ones included, and a cached trunk must save `saving`; default: a quarter of a batch.
    """
    totals = torch.zeros(len(requests), dtype=torch.float64, device=base.device)
    walk = _Walk(requests, tokens, TreePass(base, totals))
    plan = plan_groups(walk.trie, tokens, saving)
    with base.divided():
        walk.compute(plan, lambda: None, walk.mine(plan))
    base.world.sum_(totals)
    return totals.cpu()


class _Walk:
    """One traversal of a plan."""

    def __init__(self, requests: Sequence[Request], tokens: int, model: TreePass) -> None:
        self.requests, self.tokens, self.model = requests, tokens, model
        self.most = pass_limits(model.base.device).tokens
        self.sequences = [request.context + request.option for request in requests]
        self.firsts = [max(len(request.context), 1) for request in requests]
        tasks = [request.task_id for request in requests]
        self.trie = Trie([s[:-1] for s in self.sequences], tasks)  # the last is predicted only

    def task(self, place: int) -> int:
        return self.requests[int(self.trie.order[place])].task_id

    def mine(self, plan: Group) -> Iterator[bool]:
        """For all passes in order, whether this process computes it.

        Each process takes consecutive passes, so that few trunks are computed twice.
        """
        world = self.model.base.world
        if world.size == 1:
            return repeat(True)
        sizes = np.array([*self._sizes(plan)])
        middles = sizes.cumsum() - sizes / 2
        owners = (middles * world.size / sizes.sum()).astype(int)
        return iter((owners == world.rank).tolist())

    def _sizes(self, group: Group) -> Iterator[int]:
        """Tokens of the passes of `compute`."""
        if group.depth > group.start:
            yield group.depth - group.start
        for batch in self._batches(group):
            yield sum(row.size for row in batch)
        for longer in group.groups:
            yield from self._sizes(longer)

    def _batches(self, group: Group) -> Iterator[list[Row]]:
        return group.batches(self.tokens, self.trie.longest, self.most)

    def compute(
        self, group: Group, parent: Callable[[], TrunkCache | None], mine: Iterator[bool]
    ) -> None:
        """Computes a group's trunk, its rows, and the groups that continue it."""
        trunk = parent
        if group.depth > group.start:
            counts = next(mine)
            trunk = cache(partial(self._trunk, group, parent, counts))
            if counts:
                trunk()
        for batch in self._batches(group):
            if next(mine):
                layouts = [self._lay_out(row, group.depth) for row in batch]
                self.model.rows(layouts, [self.task(row.first) for row in batch], trunk())
        for longer in group.groups:
            self.compute(longer, trunk, mine)

    def _trunk(
        self, group: Group, parent: Callable[[], TrunkCache | None], counts: bool
    ) -> TrunkCache:
        layout = self._lay_out(group, group.start, group.depth)
        return self.model.trunk(layout, self.task(group.first), parent(), counts=counts)

    def _lay_out(self, part: Row | Group, start: int, end: int | None = None) -> Layout:
        run = part.first, part.stop
        return lay_out(self.trie, self.sequences, self.firsts, run, start, end)
