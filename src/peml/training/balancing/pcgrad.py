"""Gradients of tasks that point against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.training.balancing.base import Balancing
from peml.training.balancing.settings import BalancingSettings


class PCGrad(Balancing):
    """Projects conflicting gradients (Yu et al., arXiv 2001.06782, algorithm 1).

    The task gradients of a step add up to the ordinary one. Each is taken from the same forward
    pass, so a batch with rows of k tasks costs k backward passes, and a step holds a gradient of
    what trains for every task in it (k x trainable parameters x 4 bytes, twice while they are
    projected). A batch, and a step, of one task is an ordinary one.
    """

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__(settings, tasks, seed)
        self._gradients: dict[int, list[Tensor | None]] = {}

    def backward(
        self,
        output: Any,
        batch: TaskBatch,
        share: float,
        parameters: Sequence[nn.Parameter],
        backward: Callable[[Tensor], None],
    ) -> None:
        """Adds the batch's part to each task's gradient; an auxiliary loss is no task's."""
        losses = self.balance(output.losses, batch.tasks) * (share / batch.examples)
        present = batch.tasks.unique().tolist()
        for task in present:
            found = torch.autograd.grad(
                losses[batch.tasks == task].sum(),
                parameters,
                retain_graph=task != present[-1] or output.auxiliary is not None,
                allow_unused=True,
            )
            held = self._gradients.get(task, [None] * len(parameters))
            self._gradients[task] = [_add(old, new) for old, new in zip(held, found, strict=True)]
        if output.auxiliary is not None:
            backward(share * output.auxiliary)

    def finish(self, parameters: Sequence[nn.Parameter], step: int) -> None:
        """Adds the projected gradients to the parameters'; what no task reaches keeps none."""
        rows = list(self._gradients.values())
        reached = [p for p, *found in zip(parameters, *rows, strict=True) if _any(found)]
        columns = [found for found in zip(*rows, strict=True) if _any(found)]
        self._gradients = {}
        flat = torch.cat([_stack(p, found) for p, found in zip(reached, columns, strict=True)], 1)
        projected = project_conflicts(flat, np.random.default_rng((self.seed, step)))
        parts = projected.split([parameter.numel() for parameter in reached])
        for parameter, part in zip(reached, parts, strict=True):
            parameter.grad = _add(parameter.grad, part.view_as(parameter).to(parameter.dtype))


def project_conflicts(gradients: Tensor, rng: np.random.Generator) -> Tensor:
    """The sum of the tasks' gradients, each without what opposes another's.

    Gradient i loses, for every other j in random order, its part along g_j where it points against
    it. That happens among shared elements: those that more than one task moves. What belongs to one
    task (its head, its own matrices) would only lengthen its gradient, and is added as it is.

    Only products of gradients are needed until the end, so the loop over pairs runs on a
    (tasks, tasks) matrix.

    Args:
        gradients: (tasks, elements).
        rng: Orders the others.

    Returns:
        (elements,).
    """
    shared = (gradients != 0).sum(0) > 1
    common = gradients * shared
    products = (common @ common.T).double().cpu().numpy()
    mixed = np.eye(len(products))  # row i: the projected gradient in terms of all
    for i, row in enumerate(mixed):
        for j in rng.permutation(np.delete(np.arange(len(products)), i)):
            against = row @ products[:, j]
            if against < 0:
                row[j] -= against / products[j, j]
    weights = torch.from_numpy(mixed.sum(0)).to(gradients)
    return torch.where(shared, weights @ common, gradients.sum(0))


def _add(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return old + new


def _any(found: Sequence[Tensor | None]) -> bool:
    return any(gradient is not None for gradient in found)


def _stack(parameter: nn.Parameter, found: Sequence[Tensor | None]) -> Tensor:
    """A parameter's gradients, (tasks, elements), zero where a task doesn't reach it."""
    nothing = torch.zeros_like(parameter)
    return torch.stack([nothing if g is None else g for g in found]).flatten(1)
