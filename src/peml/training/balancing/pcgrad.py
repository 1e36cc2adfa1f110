"""Projection of conflicting task gradients."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.training.balancing.base import Balancing
from peml.training.balancing.settings import BalancingSettings


class PCGrad(Balancing):
    """Projects conflicting gradients (Yu et al., arXiv 2001.06782, algorithm 1).

    A batch with rows of k tasks costs one forward and k backward passes. A step keeps the gradient
    of every task in it: k x trainable parameters x 4 bytes, twice that during projection. A step of
    a single task is an ordinary step. Several processes exchange every task's gradient.
    """

    passes_backward_once: ClassVar[bool] = False

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
        """Adds the batch's part to each task's gradient; an auxiliary loss belongs to no task."""
        losses = self.balance(output.losses, batch.tasks) * (share / batch.examples)
        present = sorted(batch.known.task_rows)
        for task in present:
            gradients = torch.autograd.grad(
                torch.where(batch.tasks == task, losses, 0.0).sum(),
                parameters,
                retain_graph=task != present[-1] or output.auxiliary is not None,
                allow_unused=True,
            )
            sums = self._gradients.get(task, [None] * len(parameters))
            self._gradients[task] = [_add(a, b) for a, b in zip(sums, gradients, strict=True)]
        if output.auxiliary is not None:
            backward(share * output.auxiliary)

    def finish(self, parameters: Sequence[nn.Parameter], step: int, tasks: Sequence[int]) -> None:
        """Adds the projected gradients to the parameters that a task reaches."""
        super().finish(parameters, step, tasks)
        missing = [None] * len(parameters)
        rows = [
            self.world.sum_each(self._gradients.get(task, missing), parameters) for task in tasks
        ]
        reached = [
            (parameter, by_task)
            for parameter, *by_task in zip(parameters, *rows, strict=True)
            if any(gradient is not None for gradient in by_task)
        ]
        self._gradients = {}
        flat = torch.cat([_stack(*item) for item in reached], 1)
        projected = project_conflicts(flat, np.random.default_rng((self.seed, step)))
        parts = projected.split([parameter.numel() for parameter, _ in reached])
        for (parameter, _), part in zip(reached, parts, strict=True):
            parameter.grad = _add(parameter.grad, part.view_as(parameter).to(parameter.dtype))


def project_conflicts(gradients: Tensor, rng: np.random.Generator) -> Tensor:
    """The sum of the tasks' gradients, (tasks, elements), without conflicts between them.

    If gradient i has a negative product with gradient j, its component along g_j is removed; for
    every j in random order. Only elements that more than one task changes take part. Elements of a
    single task (its head, its own matrices) would only lengthen its gradient, so they are added
    unchanged.

    The loop over pairs needs only products of gradients, a (tasks, tasks) matrix.

    Returns:
        (elements,).
    """
    shared = (gradients != 0).sum(0) > 1
    common = gradients * shared
    products = (common @ common.T).double()
    tasks = np.arange(len(products))
    orders = [rng.permutation(np.delete(tasks, task)) for task in tasks]
    # The rows take their turns together; row i: the projected gradient of task i in terms of all.
    mixed = torch.eye(len(products), dtype=products.dtype, device=products.device)
    for turn in torch.from_numpy(np.stack(orders, 1)).to(mixed.device, non_blocking=True):
        against = (mixed * products[turn]).sum(1)
        excess = torch.where(against < 0, against / products.diagonal()[turn], 0.0)
        mixed = mixed.scatter_add(1, turn[:, None], -excess[:, None])
    weights = mixed.sum(0).to(gradients)
    return torch.where(shared, weights @ common, gradients.sum(0))


def _add(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return old + new


def _stack(parameter: nn.Parameter, by_task: Sequence[Tensor | None]) -> Tensor:
    """A parameter's gradients, (tasks, elements); zero for tasks that don't reach it."""
    zero = torch.zeros_like(parameter)
    return torch.stack([zero if gradient is None else gradient for gradient in by_task]).flatten(1)
