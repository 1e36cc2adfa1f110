"""Prepares a run before its model is loaded: checked tasks, encoded rows, a plan."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal

from peml.config.model import RunConfig
from peml.data import Collator, TaskData, select_tasks
from peml.data.batching import BatchStream
from peml.data.encoding import EncodedSplit
from peml.data.leakage import drop_leaked, find_leakage, refuse_shown
from peml.data.mixing import task_weights
from peml.data.sources import LoadedTasks, load_all, with_kinds
from peml.errors import ConfigError, TrainingError
from peml.evaluation import GoldSplit
from peml.evaluation.evaluate import spell_gold
from peml.evaluation.metrics import majority_prediction
from peml.methods.base import Method
from peml.methods.registry import build_method
from peml.models import (
    Family,
    Spelling,
    TextFamily,
    check_task_types,
    load_family,
    make_room,
    settle,
)
from peml.models.compiling import check_compiler
from peml.models.quantization import check_quantization
from peml.models.reading import read_quantization
from peml.models.room import check_generation
from peml.records.plan import (
    Identity,
    LeakageEntry,
    Plan,
    PlannedContext,
    PlannedTask,
    Precision,
    Start,
)
from peml.run.encoding import SplitEncoder
from peml.run.precision import choose_precision, with_precision
from peml.run.reachable import warn_unreachable
from peml.tasks import Task, TaskRenderer
from peml.training.balancing import Balancing, build_balancing

# The development split and the draws are the same whatever a run's seed is, so that runs with
# other seeds choose and report on the same rows.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Steps:
    """Length of the phases in optimiser steps; all 0 if no task has train rows."""

    search: int
    total: int

    @property
    def train(self) -> int:
        """The steps after the search."""
        return self.total - self.search

    def stretches(self) -> dict[str, tuple[int, int]]:
        """First step and end of each phase, in order; phases without steps are left out."""
        phases = {"search": (0, self.search), "train": (self.search, self.total)}
        return {name: (first, end) for name, (first, end) in phases.items() if first < end}


@dataclass(frozen=True)
class Prepared:
    """The data and plan of a run.

    The config has its precision decided. Splits are in the order of the tasks' ids. Tasks that are
    only evaluated have no `development` split, which choices are made on. `held_out` are rows taken
    out of it if the method's search chooses on rows of its own. `majority` has the best constant
    guess of each task, from its train rows or, if it has none, from its reported rows. `leakage`
    counts evaluation rows found in train splits, `dropped` the train rows dropped for that by task.
    """

    config: RunConfig
    precision: Precision
    method: Method
    family: Family
    tasks: tuple[Task, ...]
    train: list[EncodedSplit]
    development: list[GoldSplit]
    held_out: list[EncodedSplit]
    reported: list[GoldSplit]
    majority: list[Any]
    stream: BatchStream
    balancing: Balancing
    steps: Steps
    loaded: LoadedTasks
    leakage: list[LeakageEntry]
    dropped: dict[str, int]

    def without_training(self) -> Prepared:
        """The same run without steps, for a method that has nothing to train on this model."""
        return replace(self, steps=Steps(search=0, total=0))

    def span(self, group: str) -> tuple[int, int]:
        """First step and end of a parameter group's training, which its schedule spans."""
        own = [
            stretch
            for phase, stretch in self.steps.stretches().items()
            if group not in self.method.resting(phase)
        ]
        return (own[0][0], own[-1][1]) if own else (0, self.steps.total)

    def _cut(self) -> list[dict[str, int]]:
        """Each task's number of rows that lose tokens to the length limit: by split, and in all."""
        cut = [
            {"cut_train": split.cut, "cut_development": 0, "cut_reported": 0}
            for split in self.train
        ]
        for name in ("development", "reported"):
            for split in getattr(self, name):
                cut[split.task_id][f"cut_{name}"] = split.encoded.cut
        return [counts | {"cut": sum(counts.values())} for counts in cut]

    def plan(
        self,
        trainable: dict[str, int],
        identity: Identity | None = None,
        start: Start | None = None,
    ) -> Plan:
        """The plan, for the run folder and ``--dry-run``."""
        choosing = {split.task_id: len(split.encoded) for split in self.development}
        held_out = [len(split) for split in self.held_out]
        splits = (self.train, self.reported, self._cut(), self.loaded.data)
        return Plan(
            tasks=[
                PlannedTask(
                    name=task.name,
                    version=task.version,
                    type=task.type.value,
                    train=len(train),
                    development=choosing.get(number, 0),
                    held_out=held_out[number] if held_out else None,
                    reported=len(reported.encoded),
                    metric=task.metrics[0],
                    origin=str(data.origin),
                    context=_planned_context(task, self.family),
                    **cut,
                )
                for number, (task, train, reported, cut, data) in enumerate(
                    zip(self.tasks, *splits, strict=True)
                )
            ],
            skipped=list(self.loaded.skipped),
            leakage=self.leakage,
            leakage_action=self.config.tasks.leakage,
            leakage_dropped=self.dropped,
            precision=self.precision,
            max_length=self.family.max_length,
            trainable_parameters=trainable,
            batches_per_epoch=len(self.stream.plan(0)),
            batches_per_step=self.config.training.accumulation,
            padding=self.stream.padding(0),
            tokens_per_epoch=self.stream.tokens(0),
            steps={"search": self.steps.search, "train": self.steps.train},
            identity=identity or Identity(tasks={}, model={}),
            start=start,
        )


def _planned_context(task: Task, family: Family) -> PlannedContext | None:
    if not task.context:
        return None
    shots, text = task.shots, TaskRenderer(task).context()
    tokens = len(family.context_tokens(text))
    return PlannedContext(split=shots.split, rows=list(shots.rows), text=text, tokens=tokens)


def prepare(config: RunConfig, precision: Precision | None = None) -> Prepared:
    """Checks, loads and encodes everything that doesn't need the model's weights.

    Runs that can't work are refused here, before anything is trained or written. `precision` is the
    decision of an earlier session, which a run keeps even on another machine.

    Raises:
        PemlError: A task, file, row, template or setting can't be used.
    """
    method = build_method(config.method)
    tasks = _tasks(config, method)
    family = load_family(config.model)
    precision = precision or choose_precision(config, method)
    config = with_precision(config, precision)
    _check_fits(family, config, method, tasks)
    loaded, leakage, dropped = _load(config, method, tasks)
    encoder = SplitEncoder(config.model, family)
    train = [encoder.encode(item, item.train, "train") for item in loaded.data]
    development, held_out = encoder.divided(loaded.data, method.held_out_share(), _SPLIT_SEED)
    names = [item.task.name for item in loaded.data]
    stream = _build_stream(config, family, train, names)
    reported = encoder.golds(loaded.data, [item.reported for item in loaded.data])
    learns = config.method.trains or not isinstance(family, TextFamily)  # others have heads
    warn_unreachable(loaded.data, reported, family, config.evaluation, learns=learns)
    scored = [split.encoded for split in (*development, *reported)]
    encoded = (split.lengths for split in (*train, *held_out, *scored))
    settle(family, (int(lengths.max()) for lengths in encoded if len(lengths)))
    return Prepared(
        config=config,
        precision=precision,
        method=method,
        family=family,
        tasks=tuple(with_kinds(item) for item in loaded.data),
        train=train,
        development=development,
        held_out=held_out,
        reported=reported,
        majority=[_majority(item, family.spelling) for item in loaded.data],
        stream=stream,
        balancing=build_balancing(config.training.balancing, names, config.seed),
        steps=_steps(config, method, stream),
        loaded=loaded,
        leakage=leakage,
        dropped=dropped,
    )


def load_inputs(config: RunConfig) -> tuple[Family, LoadedTasks]:
    """Loads a run's tokenizer and rows; nothing is encoded.

    Raises:
        PemlError: See `prepare`.
    """
    method = build_method(config.method)
    loaded, *_ = _load(config, method, _tasks(config, method))
    return load_family(config.model), loaded


def _tasks(config: RunConfig, method: Method) -> Sequence[Task]:
    tasks = select_tasks(config.tasks)
    return tasks if method.context is None else method.context.hold(tasks)


def _load(
    config: RunConfig, method: Method, tasks: Sequence[Task]
) -> tuple[LoadedTasks, list[LeakageEntry], dict[str, int]]:
    """The tasks' rows, the leaks among them, and the number of rows dropped because of leaks."""
    trains_shown = method.context is not None and method.context.leave_one_out is not None
    loaded = load_all(tasks, config.tasks, _SPLIT_SEED, trains_shown=trains_shown)
    if method.context is not None:
        loaded = replace(loaded, data=method.context.gather(loaded.data))
    refuse_shown(loaded.data)
    leakage = find_leakage(loaded.data)
    dropped: dict[str, int] = {}
    if config.tasks.leakage == "drop":
        data, counts = drop_leaked(loaded.data)
        loaded, dropped = LoadedTasks(data, loaded.skipped), dict(counts)
    return loaded, leakage, dropped


def _check_fits(family: Family, config: RunConfig, method: Method, tasks: Sequence[Task]) -> None:
    """Refuses settings that the family or machine doesn't support; reserves room for generation."""
    check_task_types(family, tasks)
    if config.tasks.bare and not isinstance(family, TextFamily):
        raise ConfigError(
            f"tasks.bare is true, but the family {family.name!r} has no prompts",
            allowed="text-to-text models",
            action="leave out tasks.bare: encoders read a task's segments alone",
        )
    if config.training.compile:
        check_compiler()
    _check_quantization(config, method)
    if config.batches.packing and not family.packs:
        raise ConfigError(
            f"batches.packing is true, but the family {family.name!r} can't pack rows",
            allowed="decoder-only models and encoders; encoder-decoders compute positions from a "
            "token's place in the sequence",
            action="leave out batches.packing",
        )
    make_room(family, tasks, config.evaluation.max_new_tokens, method.prompt_length)
    check_generation(family, tasks, config.evaluation.max_new_tokens, method.prompt_length)


def _check_quantization(config: RunConfig, method: Method) -> None:
    stored = read_quantization(config.model)
    if stored is not None and method.trains_backbone:
        raise ConfigError(
            f"the method {config.method.name!r} trains the model's own weights, which are stored "
            f"as {stored}",
            allowed="methods that train something beside frozen weights, such as lora or peml",
            action="leave out model.quantization, or choose another method",
        )
    check_quantization(config.model)


def _majority(item: TaskData, spelling: Spelling) -> Any:
    task, renderer = item.task, TaskRenderer(item.task)
    rows = getattr(item, majority_of(item.train))
    golds = (renderer.gold(row, number) for number, row in enumerate(rows))
    return majority_prediction(task, (spell_gold(task, gold, spelling) for gold in golds))


def _build_stream(
    config: RunConfig, family: Family, train: Sequence[EncodedSplit], names: Sequence[str]
) -> BatchStream:
    return BatchStream(
        train,
        config.batches,
        Collator(family.tokenizer.pad_token_id, packs=config.batches.packing),
        seed=config.seed,
        weights=task_weights(config.batches.mixing.weights, names),
        epochs=config.training.epochs,
        batches_per_step=config.training.accumulation,
    )


def majority_of(train: Sized) -> Literal["train", "reported"]:
    """The split that a task's majority baseline comes from: the reported one without train rows."""
    return "train" if len(train) else "reported"


def with_config(prepared: Prepared, config: RunConfig) -> Prepared:
    """The same data for a run that differs only in its method, training or evaluation.

    A method with other contexts renders rows differently, so its data is prepared anew.

    Raises:
        PemlError: The method's settings can't be used, or the run would have too few steps.
    """
    method = build_method(config.method)
    if method.context != prepared.method.context:
        return prepare(config)
    precision = choose_precision(config, method)
    config = with_precision(config, precision)
    longest = config.evaluation.max_new_tokens
    check_generation(prepared.family, prepared.tasks, longest, method.prompt_length)
    names = [task.name for task in prepared.tasks]
    prepared = replace(
        prepared,
        config=config,
        precision=precision,
        method=method,
        balancing=build_balancing(config.training.balancing, names, config.seed),
        steps=_steps(config, method, prepared.stream),
    )
    if method.held_out_share() or prepared.held_out:
        encoder = SplitEncoder(config.model, prepared.family)
        development, held_out = encoder.divided(
            prepared.loaded.data, method.held_out_share(), _SPLIT_SEED
        )
        prepared = replace(prepared, development=development, held_out=held_out)
    return prepared


def _steps(config: RunConfig, method: Method, stream: BatchStream) -> Steps:
    if not any(len(split) for split in stream.splits):
        return Steps(search=0, total=0)
    whole, part = divmod(config.training.epochs, 1)
    batches = sum(len(stream.plan(epoch)) for epoch in range(int(whole)))
    if part:
        batches += round(part * len(stream.plan(int(whole))))
    total = batches // config.training.accumulation
    share = method.search_share()
    search = max(1, round(share * total)) if share else 0
    if total <= search:
        raise TrainingError(
            f"{config.training.epochs:g} epochs are only {total} steps, {search} of them "
            "until the search ends",
            allowed="at least one training step after the search",
            action="raise training.epochs, or lower batches.rows or training.accumulation",
        )
    return Steps(search=search, total=total)
