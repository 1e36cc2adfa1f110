"""The training phases: search, discretise, train; resumable at every checkpoint."""

from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from rich.console import Console

from peml.config.grants import without_grants
from peml.data.solved import SolvedRows
from peml.distributed import ALONE, World
from peml.errors import RunError, TrainingError
from peml.evaluation import mean_weights, weighted_mean
from peml.evaluation.evaluate import score_split
from peml.injection.packing import enable_packing
from peml.injection.training import fast_attention
from peml.methods.attached import AttachedModel, check_count
from peml.methods.base import AttachContext
from peml.methods.shape import read_shape
from peml.models import Backbone, TaskModel, load_backbone
from peml.models.compiling import CompiledBlocks
from peml.models.padding import refuse_left_padding
from peml.models.sharding import whole_weights_refused
from peml.prefix.genotype import Genotype
from peml.records.metrics import Evaluation, Scores
from peml.records.run import Spent
from peml.run.cost import CostMeter
from peml.run.folder import RunFolder
from peml.run.held_out import HeldOutRows
from peml.run.listener import (
    Log,
    MetricsLog,
    OnEvaluation,
    ProgressDisplay,
    RunListener,
    never_stops,
)
from peml.run.precision import build_accelerator
from peml.run.preparation import Prepared
from peml.run.state import SessionState
from peml.run.trackers import Trackers, open_trackers
from peml.training.checkpoints import Checkpoint, load_random_state, random_state
from peml.training.loop import Phase, Progress, TrainingLoop
from peml.training.optimizer import SPAN, build_optimizer, load_optimizer_state, optimizer_state


def attach(
    prepared: Prepared,
    device: torch.device,
    genotype: Genotype | None,
    backbone: Backbone | None = None,
    world: World = ALONE,
    calibration_batches: int = 8,
) -> AttachedModel:
    """Attaches the method to the frozen model, with the network of a genotype if given.

    `backbone` is changed in place; default: it is loaded. The method may run the model on
    `calibration_batches` before training.

    Raises:
        ModelError: The method doesn't fit the model, or trains more or less than it announces.
        TrainingError: The method has something to train, but there are no train rows.
    """
    config = prepared.config
    backbone = backbone or load_backbone(config.model, prepared.family, world, device)
    if config.batches.packing:
        longest = prepared.family.max_length + prepared.method.prompt_length
        enable_packing(backbone.model, longest)
    model = TaskModel(backbone, prepared.tasks, seed=config.seed).to(device)
    if any(task.type.generates for task in prepared.tasks):
        refuse_left_padding(backbone.model, prepared.family.tokenizer)
    shape = read_shape(model)

    def calibrate() -> None:
        model.eval()
        if not prepared.steps.total:
            raise _nothing_to_train_on()
        for numbers in prepared.stream.plan(0)[:calibration_batches]:
            batch = prepared.stream.fetch(numbers)
            # Not packed: the mask shows which queries are of real tokens.
            model(replace(batch, packed=None).to(device))

    context = AttachContext(
        seed=config.seed,
        calibrate=calibrate,
        genotype=genotype,
        total_steps=prepared.steps.total,
        solved=SolvedRows(prepared.loaded.data, prepared.stream, ceil(config.training.epochs)),
    )
    with whole_weights_refused(config.method.name):
        attached = prepared.method.attach(model, context).to(device)
    attached.base.world = world
    check_count(prepared.method, shape, attached)
    if attached.groups() and not prepared.steps.total:
        raise _nothing_to_train_on()
    return attached


def _nothing_to_train_on() -> TrainingError:
    return TrainingError(
        "no task has train rows: all are evaluated only, or their train rows serve as shots",
        allowed="train rows in one task, or the method frozen on a text-to-text model",
        action="add a task to train on, or set method.name: frozen",
    )


def _no_last_checkpoint(folder: RunFolder) -> RunError:
    return RunError(
        f"{folder.path} is finished, and has neither a model nor its last checkpoint",
        allowed="a finished run with its folder checkpoints/, from which a model is saved",
        action="choose another --output to train again; nothing was changed",
    )


class TrainingSession:
    """The training of a run in one of its processes.

    Only the first process writes. `spent` is the cost of a run that has results, of which only the
    model is missing.

    Raises:
        RunError: Such a run lacks the checkpoint of its end.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: RunFolder,
        console: Console,
        on_evaluation: OnEvaluation = never_stops,
        world: World = ALONE,
        spent: Spent | None = None,
    ) -> None:
        self.world = world
        self.prepared = prepared
        self.folder = folder
        self.console = console
        self.on_evaluation = on_evaluation
        self.settings = prepared.config.training
        self.accelerator = build_accelerator(self.settings.precision, world)
        self.store = folder.store(self.settings.keep_checkpoints)
        torch.manual_seed(prepared.config.seed)
        checkpoint = world.from_first(self.store.load_latest)
        state = None
        if checkpoint is not None:
            state = SessionState.check(folder.checkpoints, checkpoint.state)
        self.is_resumed = checkpoint is not None
        before = state.cost if state else Spent()
        if spent is not None and spent.steps != before.steps:
            raise _no_last_checkpoint(folder)
        self.cost = CostMeter(spent or before)
        genotype = state.genotype if state else None
        self.model = attach(prepared, self.accelerator.device, genotype, world=world)
        if not self.model.groups():
            self.prepared = prepared.without_training()
        self.genotype = self.model.genotype()
        self.compiled = CompiledBlocks(self.model.base.backbone) if self.settings.compile else None
        self.balancing = prepared.balancing.to(self.accelerator.device)
        # Among the modules that checkpoints hold, and of no part, so that exports leave it out.
        self.model.added["balancing"] = self.balancing
        self._log_offset = state.log_offset if state else 0
        self._progress = state.progress if state else Progress()
        self._search_state = state.search if state else None
        self.optimizer = self._build_optimizer(remaining=self.is_resumed)
        if checkpoint is not None and state is not None:
            self.model.load_trainable_state(checkpoint.trainable)
            load_optimizer_state(self.optimizer, self.model, checkpoint.optimizer)
            prepared.stream.load_state_dict(state.stream)
            load_random_state(checkpoint.extra)
            if world.is_first:
                self.store.drop_bests_but(self._progress.best_step)

    def align(self) -> None:
        """Copies the first process's weights to all processes, before training.

        The first may have started from another run, and other processors may draw other weights
        from the same seed.
        """
        self.world.align([*self.model.trainable_state().values()])

    @property
    def steps_done(self) -> int:
        """The number of optimiser steps up to the last checkpoint."""
        return self._progress.step

    def trackers(self) -> AbstractContextManager[Trackers]:
        """The run's trackers, in the first process; closed at the end of the context."""
        if not self.world.is_first:
            return nullcontext(Trackers(self.console))
        config = self.prepared.config
        shown = without_grants(config.model_dump(mode="json"))
        return open_trackers(
            config.tracking, self.folder.path, self._progress.step, shown, self.console
        )

    def run(self, trackers: Trackers) -> AttachedModel:
        """Trains from the current state to the end and returns the trained model."""
        if self.genotype is not None and self.world.is_first:
            self.genotype.save(self.folder.genotype)
        display = ProgressDisplay(self.console, self.prepared.steps.total, self._progress.step)
        log = MetricsLog(self.folder.metrics, self._log_offset) if self.world.is_first else Log()
        with closing(log), display, self._attention():
            self._listen(log, trackers, display)
            if self.model.search is not None:
                self._search()
                self._discretise(log)
            if self.prepared.steps.total:
                self._run_phase(Phase("train", self.prepared.steps.total))
        if self.compiled is not None:
            self.console.print(f"torch.compile: {self.compiled.graphs} graphs", highlight=False)
        if self.settings.keep == "best" and self.prepared.steps.total:
            best = self.world.from_first(lambda: self.store.load_best(self._progress.best_step))
            self.model.load_trainable_state(best)
        return self.model

    def _attention(self) -> AbstractContextManager[None]:
        """Faster attention in training; `torch.compile` would end its graphs there."""
        if self.compiled is not None:
            return nullcontext()
        self.model.base.routing.one_task(0, self.accelerator.device)  # of the rows of its test
        return fast_attention(self.model.base.backbone)

    def _listen(self, log: Log, trackers: Trackers, display: ProgressDisplay) -> None:
        self.listener = RunListener(
            log,
            trackers,
            display,
            decisions=lambda step: s.snapshot(step) if (s := self.model.search) else None,
            save=lambda phase: self._save(phase, log),
            keep_best=self._keep_best,
            stops=lambda evaluation: self.world.from_first(lambda: self.on_evaluation(evaluation)),
        )

    def _loop(self) -> TrainingLoop:
        loop = TrainingLoop(
            self.model,
            self.optimizer,
            self.prepared.stream,
            self.accelerator,
            self.settings,
            balancing=self.balancing,
            total_steps=self.prepared.steps.total,
            evaluate=self._evaluate,
            listener=self.listener,
            count=self.cost.count_step,
            around=nullcontext if self.compiled is None else self.compiled.in_use,
        )
        loop.progress = self._progress
        return loop

    def _search(self) -> None:
        search, steps = self.model.search, self.prepared.steps
        assert search is not None
        held_out = None
        if self.prepared.held_out:
            held_out = HeldOutRows(self.prepared, self.model, self.accelerator)
        search.begin(steps.search, held_out)
        if self._search_state is not None:
            search.load_state_dict(self._search_state)
        self._run_phase(
            Phase("search", steps.search, before_step=search.before_step, may_stop=False)
        )

    def _run_phase(self, phase: Phase) -> None:
        """Trains a phase; its resting parts get no gradient, its absent parts have no effect."""
        method = self.prepared.method
        with ExitStack() as stack:
            stack.enter_context(self.cost.phase(phase.name))
            for name in sorted(method.absent(phase.name)):
                stack.enter_context(self.model.parts[name].disabled())
            for group in self.model.groups():
                rests = group.name in method.resting(phase.name)
                for parameter in group.parameters:
                    parameter.requires_grad_(not rests)
            self._loop().run(phase)

    def _build_optimizer(self, *, remaining: bool) -> torch.optim.Optimizer:
        """The optimiser; each group's schedule spans the phases that train it.

        With `remaining`, groups that were removed with the supernet may be missing.
        """
        groups: list[Any] = [*self.model.groups(), *self.balancing.groups()]
        rates = self.settings.learning_rates
        if remaining:
            names = {group.name for group in groups}
            rates = {name: rate for name, rate in rates.items() if name in names}
        settings = self.settings.model_copy(update={"learning_rates": rates})
        optimizer = build_optimizer(groups, settings)
        for group in optimizer.param_groups:
            group[SPAN] = self.prepared.span(group.get("name", ""))
        return optimizer

    def _discretise(self, log: Log) -> None:
        """Replaces the supernet by the chosen network and scores both; the best starts anew."""
        search = self.model.search
        assert search is not None
        step = self._progress.step
        with self.cost.phase("discretise"):
            last = self.listener.last  # the phase has just ended with an evaluation, or was resumed
            soft = Scores(mean=last.mean, tasks=last.tasks) if last else self._evaluate()
            moments = optimizer_state(self.optimizer, self.model)
            free = search.free_weights()
            self.genotype, guarded = search.discretise(step)
            self.model.search = None
            self.optimizer = self._build_optimizer(remaining=True)
            load_optimizer_state(self.optimizer, self.model, moments)
            hard = self._evaluate()
        if self.world.is_first:
            self.genotype.save(self.folder.genotype)
        self.listener.on_discretise(step, soft, hard, self.genotype, guarded=guarded, free=free)
        self._progress.best, self._progress.evaluations_since_best = None, 0
        self._save("train", log)

    def _evaluate(self) -> Scores:
        """The development scores; their mean weighs tasks as that of the reported ones does."""
        if self.model.search is not None:
            self.model.search.before_evaluation(max(0, self._progress.step - 1))
        values, tasks, splits = {}, self.prepared.tasks, self.prepared.development
        for split in splits:
            with self.accelerator.autocast():
                metrics, _ = score_split(self.model, split, self.prepared.config.evaluation)
            task = tasks[split.task_id]
            values[task.name] = metrics[task.metrics[0]]
        averages = [tasks[split.task_id].average for split in splits]
        weights = mean_weights(averages, [len(split.gold) for split in splits])
        return Scores(mean=weighted_mean(list(values.values()), weights), tasks=values)

    def _keep_best(self, evaluation: Evaluation) -> None:
        if evaluation.phase == "train" and self.world.is_first:
            self.store.save_best(evaluation.step, self.model.trainable_state())

    def _save(self, phase: str, log: Log) -> None:
        if not self.world.is_first:
            return
        search = self.model.search
        state = SessionState(
            phase=phase,
            genotype=self.genotype,
            search=search.state_dict() if search else None,
            progress=self._progress,
            stream=self.prepared.stream.state_dict(),
            log_offset=log.offset(),
            cost=self.cost.spent(),
        )
        self.store.save(
            self._progress.step,
            phase,
            Checkpoint(
                trainable=self.model.trainable_state(),
                optimizer=optimizer_state(self.optimizer, self.model),
                extra=random_state(),
                state=state.model_dump(mode="json"),
            ),
        )
        self.store.drop_bests_but(self._progress.best_step)
