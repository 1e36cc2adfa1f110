"""The largest batches of a run, and its number of tokens."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from peml.config.model import RunConfig
from peml.data import Collator, TaskBatch, select_tasks
from peml.data.batching import evaluation_batches
from peml.data.solved import SolvedRows
from peml.errors import ConfigError
from peml.estimation.tracker import emptied_batch
from peml.evaluation import GoldSplit
from peml.evaluation.scoring.options import score_options
from peml.evaluation.scoring.support import sharing_key
from peml.methods.attached import AttachedModel
from peml.methods.base import Method
from peml.methods.registry import build_method
from peml.models import Family, TextFamily, check_task_types, load_family, make_room, settle
from peml.models.families import Seq2SeqFamily
from peml.models.limits import PASS_LIMITS
from peml.records.plan import Precision
from peml.run.precision import choose_precision, with_precision
from peml.run.preparation import Prepared, Steps, prepare
from peml.tasks import Task

_BUDGETS = 2
"""Batches scored per split: in the first one, contexts may not be shared yet."""

_DENSE = 8
"""Splits with many options per token that are tried beside the largest one."""


@dataclass(frozen=True)
class Scoring:
    """A part of an evaluation, from which all rows of its kind are extrapolated.

    Attributes:
        run: Computes the part with an attached model.
        tokens: Input tokens of the part.
        development: Input tokens of this kind in all evaluations on the development splits.
        reported: The same in one evaluation on the reported splits.
        rows: Rows of a batch whose keys and values are cached.
        length: Tokens of each of these rows.
        generated: Tokens that are generated per row.
    """

    run: Callable[[AttachedModel], object]
    tokens: int
    development: int
    reported: int
    rows: int = 0
    length: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Workload:
    """What a run computes.

    Attributes:
        config: The config, with its precision decided.
        batch: The training batch with the most tokens; None if nothing is trained.
        steps: Optimiser steps of the phases.
        tokens: Mean input tokens of a training step, with padding.
        scorings: Parts of the evaluations.
        solved: Train rows from which contexts are drawn.
        basis: A sentence on the origin of the numbers of rows and tokens.
    """

    config: RunConfig
    method: Method
    family: Family
    precision: Precision
    tasks: tuple[Task, ...]
    batch: TaskBatch | None
    steps: Steps
    tokens: float
    scorings: tuple[Scoring, ...]
    solved: SolvedRows | None
    basis: str


def read_workload(config: RunConfig, precision: Precision | None = None) -> Workload:
    """The workload of a run on the config's rows, which are read and encoded as in `fit`.

    The default precision is that of a run on this machine.

    Raises:
        PemlError: As `prepare`.
    """
    prepared = prepare(config, precision)
    stream, sizes = prepared.stream, prepared.stream.padded(0)
    batch = stream.fetch(stream.plan(0)[int(np.argmax(sizes))]).with_facts() if sizes else None
    accumulation = prepared.config.training.accumulation
    rows = sum(len(split) for split in prepared.train)
    return Workload(
        config=prepared.config,
        method=prepared.method,
        family=prepared.family,
        precision=prepared.precision,
        tasks=prepared.tasks,
        batch=batch,
        steps=prepared.steps,
        tokens=accumulation * float(np.mean(sizes)) if sizes else 0.0,
        scorings=_scorings(prepared),
        solved=SolvedRows(prepared.loaded.data, stream, math.ceil(prepared.config.training.epochs)),
        basis=f"{rows:,} train rows as they are, {stream.tokens(0):,} tokens an epoch, "
        f"{stream.padding(0):.1%} padding",
    )


def assume_workload(
    config: RunConfig, rows: int, length: int, precision: Precision | None = None
) -> Workload:
    """The workload of a run on assumed rows; none are read, and evaluations are not counted.

    The largest batch is assumed to fill ``batches.tokens``.

    `rows` are the train rows of all tasks together, `length` their mean tokens, padding included.

    Raises:
        PemlError: A task, a model's config or a setting can't be used.
    """
    method = build_method(config.method)
    if method.context is not None:
        raise ConfigError(
            "the size of the contexts depends on the rows, and none are read",
            allowed="an estimate from the rows themselves for a method with contexts",
            action="leave out --rows and --length",
        )
    tasks, family = select_tasks(config.tasks), load_family(config.model)
    precision = precision or choose_precision(config, method)
    config = with_precision(config, precision)
    check_task_types(family, tasks)
    make_room(family, tasks, config.evaluation.max_new_tokens, method.prompt_length)
    budget = config.batches
    limit = config.model.max_length or max(length, budget.tokens // budget.rows)
    longest = min(family.max_length, limit, budget.tokens)
    settle(family, [longest])
    per_batch = min(budget.rows, max(1, budget.tokens // length))
    accumulation = config.training.accumulation
    total = max(2, round(rows * config.training.epochs / per_batch / accumulation))
    search = max(1, round(method.search_share() * total)) if method.search_share() else 0
    scored = min(config.evaluation.tokens, PASS_LIMITS["cpu"].tokens)
    batch = _made_up(family, tasks, longest, max(1, scored // longest), packs=False)
    return Workload(
        config=config,
        method=method,
        family=family,
        precision=precision,
        tasks=tasks,
        batch=_made_up(
            family,
            tasks,
            longest,
            min(budget.rows, max(1, budget.tokens // longest)),
            packs=budget.packing,
        ),
        steps=Steps(search=search, total=total),
        tokens=float(accumulation * per_batch * length),
        scorings=(Scoring(lambda model: model(emptied_batch(batch)), scored, 0, 0),),
        solved=None,
        basis=f"{rows:,} train rows of {length} tokens, assumed; evaluation not counted",
    )


def _made_up(
    family: Family, tasks: tuple[Task, ...], length: int, rows: int, *, packs: bool
) -> TaskBatch:
    """Rows of equal length; a text-to-text model's answers are two tokens long."""
    tokens = [10] * length
    columns: dict[str, list[Any]] = {
        "input_ids": [[tokens]] * rows,
        "token_type_ids": [[]] * rows,
        "labels": [[]] * rows,
        "targets": [[0.0]] * rows,
    }
    if isinstance(family, TextFamily):
        given = [] if isinstance(family, Seq2SeqFamily) else [-100] * (length - 2)
        columns["labels"] = [[[*given, 10, 10]]] * rows
    collate = Collator(family.tokenizer.pad_token_id, packs=packs)
    task_ids = [row * len(tasks) // rows for row in range(rows)]
    return collate(columns, task_ids, np.arange(rows)).with_facts()


def _scorings(prepared: Prepared) -> tuple[Scoring, ...]:
    """The splits with the largest batches, of tasks that generate and of the others."""
    budget = prepared.config.evaluation.tokens
    splits = {"development": prepared.development, "reported": prepared.reported}
    made = []
    for generates in (False, True):
        chosen = {
            name: [
                gold
                for gold in golds
                if len(gold.encoded) and prepared.tasks[gold.task_id].type.generates == generates
            ]
            for name, golds in splits.items()
        }
        if not any(chosen.values()):
            continue
        tokens = {name: sum(map(_tokens, golds)) for name, golds in chosen.items()}
        golds = [gold for chosen_golds in chosen.values() for gold in chosen_golds]
        largest = max(
            golds, key=lambda gold: (min(budget, _tokens(gold)), gold.encoded.lengths.max())
        )
        # Most options per token of a row's length, since options share the row's context. Models
        # with heads have no logits of the vocabulary.
        dense = sorted(
            golds if isinstance(prepared.family, TextFamily) else (),
            key=lambda gold: gold.encoded.sequences.sum() / gold.encoded.lengths.sum(),
            reverse=True,
        )[:_DENSE]
        build = _generation if generates else _options
        development = _evaluations(prepared) * tokens["development"]
        made.append(build(prepared, largest, development, tokens["reported"]))
        # Many options, or long ones, have many logits.
        made += [build(prepared, gold, 0, 0) for gold in dense if gold is not largest]
    return tuple(made)


def _tokens(gold: GoldSplit) -> int:
    return int(gold.encoded.tokens.sum())


def _evaluations(prepared: Prepared) -> int:
    """Evaluations of the development splits while a run trains."""
    steps, every = prepared.steps, prepared.config.training.evaluate_every
    regular = steps.total // every if every else math.ceil(prepared.config.training.epochs)
    return regular + 2 * bool(steps.search) if steps.total else 0


def _options(prepared: Prepared, gold: GoldSplit, development: int, reported: int) -> Scoring:
    """The longest rows of a split whose rows have options or a score."""
    settings, task_id = prepared.config.evaluation, gold.task_id
    tokens = min(settings.tokens, PASS_LIMITS["cpu"].tokens)
    order = np.argsort(-gold.encoded.lengths, kind="stable")
    reached = gold.encoded.tokens[order].cumsum() >= _BUDGETS * tokens
    order = order[: int(reached.argmax()) + 1] if reached.any() else order
    part = replace(
        gold.encoded,
        rows=gold.encoded.rows.select(order),
        **{
            name: getattr(gold.encoded, name)[order]
            for name in ("lengths", "sequences", "tokens", "altered")
        },
    )
    if isinstance(prepared.family, TextFamily):

        def run(model: AttachedModel) -> None:
            model.base.sharing[sharing_key(model.base)] = None  # its test needs values
            found = score_options(model.base, part, task_id, settings.scoring, settings.tokens)
            deque(found, maxlen=0)
    else:
        collate = Collator(prepared.family.tokenizer.pad_token_id)
        batches = [
            batch.with_facts() for batch in evaluation_batches(part, task_id, tokens, collate)
        ]

        def run(model: AttachedModel) -> None:
            for batch in map(emptied_batch, batches):
                model.base.predict(model(batch), batch, task_id)

    return Scoring(run, int(part.tokens.sum()), development, reported)


def _generation(prepared: Prepared, gold: GoldSplit, development: int, reported: int) -> Scoring:
    """The largest batch of prompts, and one token after them."""
    settings, task_id = prepared.config.evaluation, gold.task_id
    collate = Collator(prepared.family.tokenizer.pad_token_id, left=True)
    batches = evaluation_batches(gold.encoded, task_id, settings.tokens, collate)
    batch = next(batches).with_facts()
    task = prepared.tasks[task_id]
    return Scoring(
        lambda model: model.base.generate(emptied_batch(batch), max_new_tokens=1),
        batch.tokens,
        development,
        reported,
        rows=len(batch.input_ids),
        length=batch.input_ids.shape[1],
        generated=settings.longest(task),
    )
