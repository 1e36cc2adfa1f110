"""The training loop of all methods."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peml.data.batching import BatchStream
from peml.distributed import World
from peml.records.metrics import Evaluation, Scores, StepRecord
from peml.training.balancing import Balancing
from peml.training.optimizer import set_learning_rates
from peml.training.readings import Losses, Readings, StepSums, check_weights
from peml.training.settings import TrainingSettings


@dataclass(frozen=True)
class Phase:
    """A range of steps that are trained in the same way.

    Attributes:
        name: ``search`` or ``train``.
        last: Step before which the phase ends.
        before_step: Called with the step number before the step's forward pass.
        may_stop: Whether patience may end the phase early.
    """

    name: str
    last: int
    before_step: Callable[[int], None] = lambda step: None
    may_stop: bool = True


@dataclass
class Progress:
    """How far training has come, saved with each checkpoint.

    `losses` holds the sum and count of the example losses per task since the last record, so that a
    resumed run writes the same log as an uninterrupted one. `best` is None before the first
    evaluation.
    """

    step: int = 0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    losses: Losses = field(default_factory=dict)


class Listener(Protocol):
    """Receives the loop's events: log, progress bar and checkpoints."""

    def on_step(self, record: StepRecord) -> None:
        """Called for every optimiser step, in order; on a GPU some steps later."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Called after every development evaluation."""

    def on_checkpoint(self, phase: str) -> None:
        """Called when the state should be saved."""


@dataclass(eq=False)
class TrainingLoop:
    """Trains on batches and evaluates, and reports both to the listener.

    Attributes:
        model: An `AttachedModel`.
        accelerator: Device, precision and gradient scaling.
        total_steps: Steps of all phases together, for the schedule.
        evaluate: Returns the tasks' development metrics and their mean.
        count: Called with the phase and tokens of every step, to count the cost.
        around: Entered around the passes of every step.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    stream: BatchStream
    accelerator: Accelerator
    settings: TrainingSettings
    _: KW_ONLY
    balancing: Balancing
    total_steps: int
    evaluate: Callable[[], Scores]
    listener: Listener
    count: Callable[[str, int], None] = lambda phase, tokens: None
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    progress: Progress = field(default_factory=Progress, init=False)

    def __post_init__(self) -> None:
        self.world: World = self.model.base.world
        self.balancing.world = self.world
        self.readings = Readings(
            [task.name for task in self.model.base.tasks],
            self.settings,
            self.accelerator.device,
            advice=lambda: self.model.base.not_finite_advice,
            world=self.world,
        )
        self._evaluated_epochs = 0

    def run(self, phase: Phase) -> None:
        """Trains until the phase ends or patience runs out.

        Raises:
            TrainingError: The loss, the gradient or a weight is not finite, or the loss exceeds
                ``training.explode_at``.
        """
        if phase.may_stop and self._is_out_of_patience():
            return  # resumed after the checkpoint that ended the phase
        self._evaluated_epochs = int(self._epochs())
        gpu = self.accelerator.device.type == "cuda"
        size = self.world.size
        ahead = self.settings.accumulation // size + 1
        with self.stream.prefetching(ahead, every=size, pin=gpu):
            self._run(phase)

    def _run(self, phase: Phase) -> None:
        while self.progress.step < phase.last:
            phase.before_step(self.progress.step)
            self._step(phase)
            ends = self.progress.step >= phase.last
            if self._evaluation_is_due() or ends:
                self._settle()
                self._evaluate(phase)
                self.listener.on_checkpoint(phase.name)
                if phase.may_stop and self._is_out_of_patience():
                    return
            elif self._is_multiple_of(self.settings.checkpoint_every):
                self._settle()
                self.listener.on_checkpoint(phase.name)

    def _step(self, phase: Phase) -> None:
        rates = set_learning_rates(
            self.optimizer, self.progress.step, self.total_steps, self.settings
        )
        self.model.train()
        step = self.stream.next_step(self.settings.accumulation, self.world.part)
        batches = [batch.to(self.accelerator.device) for batch in step.batches]
        shares = self.balancing.shares(step.examples)[self.world.part]
        parameters = [p for group in self._parameters_by_group() for p in group]
        sums = StepSums(len(self.model.base.tasks), self.accelerator.device)
        with self.around():
            for batch, share, seed in zip(batches, shares, step.seeds, strict=True):
                if seed is not None:
                    torch.manual_seed(seed)
                with self.accelerator.autocast():
                    output = self.model(batch)
                self.balancing.backward(output, batch, share, parameters, self.accelerator.backward)
                sums.add(output.loss, share, output.losses, batch.tasks)
        self.balancing.finish(parameters, self.progress.step, list(step.task_rows))
        norm = self._clip()
        record = self._record(phase, rates, step.tokens)
        self.readings.add(record, step.task_rows, sums.with_norm(norm))
        if self.readings.is_due():
            self.readings.read(self.progress.losses)
        self.optimizer.step()
        self.model.after_step(self.progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += record.tokens
        self.count(phase.name, record.tokens)
        self._report()

    def _parameters_by_group(self) -> list[list[nn.Parameter]]:
        groups = self.optimizer.param_groups
        return [[p for p in group["params"] if p.requires_grad] for group in groups]

    def _clip(self) -> Tensor:
        """Clips the gradients, and returns the norm that all had together."""
        groups = self._parameters_by_group()
        if self.settings.clip_by == "model":
            groups = [[p for group in groups for p in group]]
        clip, most = self.accelerator.clip_grad_norm_, self.settings.clip
        norms: list[Tensor] = [clip(group, most) for group in groups]
        if len(norms) == 1:
            return norms[0]
        # A group without gradients has its norm on the CPU.
        squares = [norm.to(self.accelerator.device).square() for norm in norms]
        return torch.stack(squares).sum().sqrt()

    def _settle(self) -> None:
        """Reads and checks all pending numbers, so that no broken number is evaluated or saved."""
        self.readings.read(self.progress.losses)
        self._report()
        check_weights(self.optimizer, self.progress.step)

    def _report(self) -> None:
        for record in self.readings.records(self.balancing.moving_weights):
            self.listener.on_step(record)

    def _record(self, phase: Phase, rates: dict[str, float], tokens: int) -> StepRecord:
        """The record of the current step, before its numbers are read."""
        return StepRecord(
            phase=phase.name,
            step=self.progress.step + 1,
            epoch=self._epochs(),
            learning_rates=rates,
            tokens=tokens,
        )

    def _is_multiple_of(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _evaluation_is_due(self) -> bool:
        if self.settings.evaluate_every is not None:
            return self._is_multiple_of(self.settings.evaluate_every)
        ended = int(self._epochs())
        due = ended > self._evaluated_epochs
        self._evaluated_epochs = ended
        return due

    def _epochs(self) -> float:
        """Epochs trained so far."""
        state = self.stream.state_dict()
        batches = max(1, len(self.stream.plan(state["epoch"])))
        return float(state["epoch"] + state["batch"] / batches)

    def _evaluate(self, phase: Phase) -> None:
        scores, progress = self.evaluate(), self.progress
        is_best = progress.best is None or scores.mean > progress.best
        if is_best:
            progress.best, progress.best_step = scores.mean, progress.step
            progress.evaluations_since_best = 0
        else:
            progress.evaluations_since_best += 1
        found = {"phase": phase.name, "step": progress.step, **dict(scores)}
        self.listener.on_evaluation(Evaluation(**found, is_best=is_best))

    def _is_out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.evaluations_since_best >= patience
