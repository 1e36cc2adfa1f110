"""One linear head per task, held in a single matrix so that a batch may mix tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

import torch
from torch import Tensor, nn

from peml.tasks import Answer, Task

_CLASSES, _SCORE, _OPTION = 0, 1, 2
_KINDS: Mapping[Answer, int] = MappingProxyType(
    {"label": _CLASSES, "score": _SCORE, "option": _OPTION}
)


class TaskHeads(nn.Module):
    """The heads of an encoder's tasks.

    All heads are rows of one (columns, hidden) matrix: a classification task has one column per
    label, a regression or multiple-choice task has one. A step computes all columns of all rows
    and selects by task id, without a loop over tasks. Nothing has a size of tasks x columns.

    Regression scores are scaled to [-2, 2], so that their squared error starts near the
    cross-entropy of classification and neither dominates.
    """

    _kind: Tensor
    _start: Tensor
    _size: Tensor
    _low: Tensor
    _width: Tensor

    def __init__(self, tasks: Sequence[Task], hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [len(t.labels) if _KINDS[t.type.answer] == _CLASSES else 1 for t in tasks]
        starts = [0, *accumulate(sizes)][:-1]
        self.tasks = tuple(tasks)
        self.sizes = tuple(sizes)
        self.weight = nn.Parameter(torch.empty(sum(sizes), hidden_size))
        self.bias = nn.Parameter(torch.zeros(sum(sizes)))
        nn.init.normal_(self.weight, std=0.02, generator=generator)
        scales = [(t.scale.low, t.scale.high) if t.scale else (0.0, 1.0) for t in tasks]
        buffers: dict[str, list[int] | list[float]] = {
            "_kind": [_KINDS[t.type.answer] for t in tasks],
            "_start": starts,
            "_size": sizes,
            "_low": [low for low, _ in scales],
            "_width": [high - low for low, high in scales],
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    @torch.no_grad()
    def take_over(self, other: TaskHeads) -> dict[str, str]:
        """Copies the heads of tasks with the same name, type, labels and scale.

        Returns:
            For each other task of this model, the reason.
        """
        left = {}
        for number, task in enumerate(self.tasks):
            found = [n for n, each in enumerate(other.tasks) if each.name == task.name]
            before = other.tasks[found[0]] if found else None
            if before is None:
                left[task.name] = "a new task"
            elif (before.type, before.labels, before.scale) != (task.type, task.labels, task.scale):
                left[task.name] = "its type, labels or scale are others"
            else:
                own = slice(int(self._start[number]), int(self._start[number]) + self.sizes[number])
                first = int(other._start[found[0]])
                saved = slice(first, first + self.sizes[number])
                self.weight[own] = other.weight[saved].to(self.weight)
                self.bias[own] = other.bias[saved].to(self.bias)
        return left

    def forward(self, pooled: Tensor) -> Tensor:
        """Scores of all columns, (sequences, columns), from (sequences, hidden)."""
        return nn.functional.linear(pooled.to(self.weight.dtype), self.weight, self.bias)

    def losses(
        self, logits: Tensor, targets: Tensor, task_ids: Tensor, groups: Tensor, examples: int
    ) -> Tensor:
        """Loss of each example, (examples,): cross-entropy or squared error.

        `logits` are (sequences, columns); for the others see `TaskBatch`.
        """
        logits = logits.float()
        kind, start = self._kind[task_ids], self._start[task_ids]
        single = logits.gather(1, start[:, None]).squeeze(1)
        classes = torch.where(kind == _CLASSES, targets, 0.0).long()
        labels = torch.arange(max(self.sizes), device=logits.device)
        columns = (start[:, None] + labels).clamp_max(logits.shape[1] - 1)
        others = labels >= self._size[task_ids][:, None]
        own = logits.gather(1, columns).masked_fill(others, -torch.inf)
        chosen = own.log_softmax(1).gather(1, classes[:, None]).squeeze(1)
        scaled = 4 * (targets - self._low[task_ids]) / self._width[task_ids] - 2
        option = targets * (single - _group_logsumexp(single, groups, examples)[groups])
        losses = torch.where(
            kind == _CLASSES, -chosen, torch.where(kind == _SCORE, (single - scaled) ** 2, -option)
        )
        return losses.new_zeros(examples).index_add(0, groups, losses)

    def scores(self, logits: Tensor, task_id: int) -> Tensor:
        """One task's output: (sequences, labels) logits, or (sequences,) scores.

        Regression scores are on the task's scale.
        """
        start, size = int(self._start[task_id]), self.sizes[task_id]
        columns = logits.float()[:, start : start + size]
        kind = int(self._kind[task_id])
        if kind == _CLASSES:
            return columns
        if kind == _SCORE:
            return (columns[:, 0] + 2) / 4 * self._width[task_id] + self._low[task_id]
        return columns[:, 0]


def _group_logsumexp(scores: Tensor, groups: Tensor, count: int) -> Tensor:
    """log(sum(exp(scores))) within each group, (count,)."""
    highest = scores.detach().new_full((count,), -torch.inf)
    highest = highest.scatter_reduce(0, groups, scores.detach(), "amax")
    sums = scores.new_zeros(count).index_add(0, groups, (scores - highest[groups]).exp())
    return sums.log() + highest
