"""The numbers of training steps, read from the device a few steps at a time, and checked.

Reading a number makes a GPU finish all the work queued before it, and then wait for more. So each
step leaves its numbers on the device::

    step      1  2  3  ...  10      log_every: 10
    queued    x  x  x       x
    read      x             2-10    at each logged step, and before anything is evaluated or saved
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peml.distributed import ALONE, World
from peml.errors import TrainingError
from peml.records.metrics import StepRecord
from peml.training.settings import TrainingSettings

Losses = dict[str, list[float]]
"""Sum and count of the example losses per task, since the last logged step."""

_MOST_UNREAD = 10
_LOWER_RATES = (
    "lower training.learning_rates (prefix first) in a new run folder; the last checkpoint of this "
    "run is untouched"
)


class StepSums:
    """Adds up a step's losses over its batches, on the device."""

    def __init__(self, tasks: int, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._by_task = torch.zeros(tasks, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, share: float, losses: Tensor, tasks: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: Its loss.
            share: Its weight in the step.
            losses: Loss of each example, (examples,).
            tasks: Index of each example's task, (examples,).
        """
        self._loss += loss.detach().double() * share
        self._by_task.index_add_(0, tasks, losses.detach().double())

    def with_norm(self, norm: Tensor) -> Tensor:
        """The step's loss, gradient norm, and sum of each task's losses, (2 + tasks,)."""
        return torch.cat([self._loss[None], norm.detach().double()[None], self._by_task])


@dataclass
class _Unread:
    record: StepRecord
    rows: dict[str, int]
    numbers: Tensor


class Readings:
    """Keeps steps until their numbers are read, checks these, and completes the records.

    Args:
        tasks: Names in the order of the task ids.
        settings: Interval of the log, limit of the loss.
        device: Where the numbers are; on a CPU, every step is read at once.
        advice: What to do if the frozen model itself gives no finite number.
        world: The processes that compute the batches of a step.

    Attributes:
        most: The largest number of steps that are read together.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        settings: TrainingSettings,
        device: torch.device,
        advice: Callable[[], str],
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._tasks = tuple(tasks)
        self._settings = settings
        self._advice = advice
        self.most = 1 if device.type == "cpu" else _MOST_UNREAD
        self._unread: list[_Unread] = []
        self._read: list[StepRecord] = []

    def add(self, record: StepRecord, task_rows: Mapping[int, int], numbers: Tensor) -> None:
        """Adds a step.

        ``record`` is known already; ``task_rows`` maps task ids to numbers of examples; ``numbers``
        are those of `StepSums.with_norm`.
        """
        rows = {self._tasks[task]: count for task, count in task_rows.items()}
        self._unread.append(_Unread(record, rows, numbers))

    def is_due(self) -> bool:
        """Whether to read now: the newest step is logged, or the first, or enough are unread."""
        step = self._unread[-1].record.step
        return step == 1 or self._is_logged(step) or len(self._unread) >= self.most

    def read(self, losses: Losses) -> None:
        """Reads and checks all steps, in one transfer.

        ``losses`` are continued, and cleared at every logged step.

        Raises:
            TrainingError: Numbers of a step are not finite, or its loss is too large.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        numbers = torch.stack([step.numbers for step in unread])
        norms = numbers[:, 1].clone()  # of gradients that are summed already
        self._world.sum_(numbers)
        numbers[:, 1] = norms
        rows = numbers.tolist()
        for step, (loss, norm, *by_task) in zip(unread, rows, strict=True):
            sums = dict(zip(self._tasks, by_task, strict=True))
            for name, count in step.rows.items():
                total = losses.setdefault(name, [0.0, 0])
                total[0] += sums[name]
                total[1] += count
            means = {name: total / count for name, (total, count) in losses.items()}
            number, limit = step.record.step, self._settings.explode_at
            _check_numbers(number, loss, norm, means, explode_at=limit, advice=self._advice)
            found: dict[str, Any] = {"loss": loss, "gradient_norm": norm}
            if self._is_logged(number):
                counts = {name: int(count) for name, (_, count) in losses.items()}
                found |= {"task_losses": means, "task_rows": counts}
                losses.clear()
            self._read.append(step.record.model_copy(update=found))

    def records(self, task_weights: Callable[[], dict[str, float]]) -> Iterator[StepRecord]:
        """The records of the steps read, each once; call it after the newest step's update.

        ``task_weights`` returns the weights of the tasks' losses after the newest step.
        """
        read, self._read = self._read, []
        for record in read:
            weights = task_weights() if record.task_losses else {}
            yield record.model_copy(update={"task_weights": weights})

    def _is_logged(self, step: int) -> bool:
        return step % self._settings.log_every == 0


def _check_numbers(
    step: int,
    loss: float,
    norm: float,
    losses: Mapping[str, float],
    *,
    explode_at: float,
    advice: Callable[[], str],
) -> None:
    """Checks a step's loss and gradient norm.

    ``step`` counts from 1, ``norm`` is that of the gradient before clipping, ``losses`` are the
    tasks' means for the message; ``advice`` is for a frozen model without finite numbers.

    Raises:
        TrainingError: Loss or norm is not finite, or the loss exceeds `explode_at`.
    """
    if math.isfinite(loss) and math.isfinite(norm) and loss <= explode_at:
        return
    by_task = ", ".join(f"{name} {value:.3g}" for name, value in sorted(losses.items()))
    numbers = f"loss {loss:.4g}, gradient norm {norm:.4g}; losses by task: {by_task}"
    allowed = f"finite numbers, a loss of at most {explode_at:g} (training.explode_at)"
    if step > 1:
        raise TrainingError(
            f"training diverged at step {step}: {numbers}", allowed=allowed, action=_LOWER_RATES
        )
    # No weight has changed yet, so no learning rate can be the cause.
    if math.isfinite(loss) and math.isfinite(norm):
        what, action = "starts above training.explode_at", "raise it, or check the targets"
    elif math.isfinite(loss):
        what, action = "gives no finite gradient", advice()
    else:
        what, action = f"itself gives {loss:.4g}", advice()
    raise TrainingError(
        f"training can't start: before the first step the frozen model {what}: {numbers}",
        allowed=allowed,
        action=action,
    )


def check_weights(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raises a TrainingError if a weight is NaN or infinite, before it is evaluated or saved."""
    broken = [
        group.get("name", "unnamed")
        for group in optimizer.param_groups
        if not all(bool(parameter.isfinite().all()) for parameter in group["params"])
    ]
    if broken:
        raise TrainingError(
            f"training diverged at step {step}: after it, weights of {', '.join(broken)} are NaN "
            "or infinite",
            allowed="finite weights",
            action=_LOWER_RATES,
        )
