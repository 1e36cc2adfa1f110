"""Plans a comparison before anything is trained, and checks that all of it can run."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from peml.comparison.cells import Cell, cells_of
from peml.comparison.matching import ComparedTask, Matching, match_methods
from peml.comparison.settings import ComparisonConfig, Place
from peml.comparison.studies import check_sizes, check_spaces, first_trials
from peml.errors import ConfigError, PemlError
from peml.evaluation.metrics import score_constant
from peml.methods.registry import build_method
from peml.methods.shape import ModelShape, read_shape
from peml.models import Backbone, TaskModel, load_backbone
from peml.reporting.cautions import tell_cautions
from peml.run.identity import check_finished, check_identity, identify
from peml.run.preparation import Prepared, majority_of, prepare, with_config
from peml.run.training import attach
from peml.terminal import Column, print_table, print_warnings
from peml.training.optimizer import build_optimizer

_COLUMNS = [
    Column("label"),
    Column("method", drop=1),
    Column("size"),
    Column("parameters", right=True),
    Column("off budget", right=True, drop=2),
    Column("task id at inference", drop=3),
]


def plan_comparison(config: ComparisonConfig) -> Matching:
    """Sizes every method and tries it on the model and the tasks, without training.

    Data is prepared once per suite and the base model is loaded once.

    Raises:
        PemlError: Some methods or suites can't run, or sizes don't match; the message lists all.
    """
    check_spaces(config)
    prepared = _prepare_suites(config)
    backbone = load_backbone(config.run.model, next(iter(prepared.values())).family)
    shapes = _read_shapes(config, backbone, prepared)
    budget, sized = match_methods(config, shapes)
    matching = Matching(
        budget=budget,
        steps={suite: data.steps.total for suite, data in prepared.items()},
        tasks={suite: _describe_tasks(data) for suite, data in prepared.items()},
        cautions={suite: tell_cautions(data.plan({})) for suite, data in prepared.items()},
        identities={suite: identify(data) for suite, data in prepared.items()},
        suites=sized,
    )
    check_sizes(config, matching.settings, shapes)
    runs: dict[Place, list[Cell]] = {}
    cells = cells_of(config, Path(), matching.settings)
    for run in (*first_trials(config, matching.settings), *cells):
        runs.setdefault(run.place, []).append(run)
    problems = []
    for (suite, label), own in runs.items():
        problem = _problem(prepared[suite], backbone, own)
        if problem:
            problems.append(f"  {suite}, {label}: {problem}")
    if problems:
        raise ConfigError(
            "some methods can't run:\n" + "\n".join(problems),
            action="correct or remove them; nothing was trained",
        )
    return matching


def check_identities(
    config: ComparisonConfig, matching: Matching, path: Path, *, is_open: bool
) -> None:
    """Refuses a comparison whose rows, tasks or base model are others than in its earlier cells.

    `is_open`: cells are left to run. Without any, inputs that can't be read are only warned about.

    Raises:
        PemlError: Something changed, see `peml.run.check_identity`, or can't be read.
    """
    if not is_open:
        settings = next(iter(config.methods.values()))
        for suite in config.suites:
            own = config.run_config(suite, settings, config.seeds[0])
            check_finished(matching.identities[suite], own, path)
        return
    for suite, prepared in _prepare_suites(config).items():
        check_identity(matching.identities[suite], identify(prepared), path)


def _prepare_suites(config: ComparisonConfig) -> dict[str, Prepared]:
    prepared, problems = {}, []
    settings = next(iter(config.methods.values()))
    for suite in config.suites:
        try:
            prepared[suite] = prepare(config.run_config(suite, settings, config.seeds[0]))
        except PemlError as error:
            if len(config.suites) == 1:
                raise
            problems.append(f"  {suite}: {error.problem}")
    if problems:
        raise ConfigError(
            "some suites can't be used:\n" + "\n".join(problems), action="correct or remove them"
        )
    return prepared


def _read_shapes(
    config: ComparisonConfig, backbone: Backbone, prepared: Mapping[str, Prepared]
) -> dict[Place, ModelShape]:
    """The model's shape by suite and label: it depends on tasks and on lengths of contexts."""
    shapes = {}
    for suite, data in prepared.items():
        plain = read_shape(TaskModel(backbone, data.tasks))
        for label, settings in config.methods.items():
            shapes[suite, label] = plain
            if build_method(settings).corrects_contexts:
                own = with_config(data, config.run_config(suite, settings, config.seeds[0]))
                shapes[suite, label] = read_shape(TaskModel(backbone, own.tasks))
    return shapes


def _describe_tasks(prepared: Prepared) -> list[ComparedTask]:
    described = []
    for task, train, reported, guess in zip(
        prepared.tasks, prepared.train, prepared.reported, prepared.majority, strict=True
    ):
        constant = score_constant(task.metrics, reported.gold, guess, reported.groups)
        described.append(
            ComparedTask(
                name=task.name,
                type=task.type.value,
                version=task.version,
                metric=task.metrics[0],
                group=task.group,
                average=task.average,
                max_new_tokens=task.max_new_tokens,
                shots=len(task.shots.examples),
                train=len(train),
                rows=len(reported.gold),
                majority=constant[task.metrics[0]],
                majority_of=majority_of(train),
            )
        )
    return described


def _problem(prepared: Prepared, backbone: Backbone, runs: Sequence[Cell]) -> str:
    try:
        for run in runs:  # each from the previous one, so that contexts are read once
            prepared = with_config(prepared, run.config)
        model = attach(prepared, torch.device("cpu"), None, _copied(backbone))
        for run in runs:
            build_optimizer(model.groups(), run.config.training)  # refuses rates of unknown groups
    except PemlError as error:
        return error.problem
    return ""


def _copied(backbone: Backbone) -> Backbone:
    """A copy of a backbone that a method may change; it shares the frozen weights."""
    shared = {id(tensor): tensor for tensor in backbone.model.parameters()}
    model = copy.deepcopy(backbone.model, shared)
    model.requires_grad_(False)  # an earlier method may have trained them
    return Backbone(model, backbone.family, backbone.settings)


def print_plan(config: ComparisonConfig, matching: Matching, console: Console) -> None:
    """Shows the methods with their sizes, and the number of runs."""
    _print_methods(matching, console)
    cells = len(config.places) * len(config.seeds)
    steps = ", ".join(f"{count:,} steps on {suite}" for suite, count in matching.steps.items())
    console.print(f"{cells} cells of {steps}", highlight=False)
    if config.tuning is not None and len(config.tuning.factors) > 1:
        factors = ", ".join(f"{factor:g}" for factor in config.tuning.factors)
        grid = len(config.places) * len(config.tuning.factors)
        console.print(
            f"learning-rate grid: {grid} runs of {config.tuning.epochs:g} epochs, "
            f"factors {factors}",
            highlight=False,
        )
    if config.tuning is not None and config.tuning.trials is not None:
        console.print(
            f"tuning: {config.tuning.trials} trials of {config.tuning.epochs:g} epochs for each "
            "method and suite",
            highlight=False,
        )
    for suite, texts in matching.cautions.items():
        several = len(config.suites) > 1
        print_warnings([f"{suite}: {text}" if several else text for text in texts], console)


def _print_methods(matching: Matching, console: Console) -> None:
    for suite, methods in matching.suites.items():
        rows = []
        for label, sized in methods.items():
            method = build_method(sized.method)
            off = "" if matching.budget is None else "unmatched"
            if sized.off_budget is not None:
                off = f"{sized.off_budget:+.2%}"
            needed = "needed" if method.needs_task_id else "not needed"
            rows.append(
                [label, sized.method.name, sized.size, f"{sized.parameters:,}", off, needed]
            )
        print_table(console, _COLUMNS, rows, title=f"Methods on {suite}")
    if matching.budget is not None:
        console.print(f"budget: {matching.budget:,} trainable parameters, heads left out")
