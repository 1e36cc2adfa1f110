"""Tuning trials in a comparison: a study a method and suite, the same number for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from peml.comparison.cells import Cell, Matched
from peml.comparison.rates import Choice
from peml.comparison.settings import ComparisonConfig, TuningSettings
from peml.errors import ConfigError
from peml.execution import Executor
from peml.files import read_json
from peml.methods import MethodSettings, ModelShape, build_method
from peml.tuning import (
    BudgetSettings,
    Parameter,
    StudyConfig,
    apply_values,
    check_space,
    first_values,
    tune,
)

__all__ = ["check_sizes", "check_spaces", "choose_values", "first_trials", "run_studies"]

Place = tuple[str, str]

_FREE = ("method.", "training.learning_rates.")
_FREE_FIELDS = ("training.learning_rate_factor", "training.weight_decay")


def check_spaces(config: ComparisonConfig) -> None:
    """Checks the space of each method on each suite; nothing to do without trials.

    Raises:
        ConfigError: Paths that have to be equal for all methods, that a method doesn't have, or
            values it refuses; everything of a kind at once.
    """
    tuning = config.tuning
    if tuning is None or tuning.space is None:
        return
    problems = [
        f"tuning.space.{path}: all methods share it"
        for path in tuning.space
        if not path.startswith(_FREE) and path not in _FREE_FIELDS
    ]
    if problems:
        raise ConfigError(
            "the space changes what has to be equal:\n" + "\n".join(f"  {p}" for p in problems),
            allowed=f"paths that begin with {' or '.join(_FREE)}; {', '.join(_FREE_FIELDS)}",
            action="remove the others, or set them in `run` for all methods",
        )
    for suite in config.suites:
        for label, settings in config.methods.items():
            try:
                check_space(config.run_config(suite, settings, tuning.seed), _space(tuning, label))
            except ConfigError as error:
                problems.append(f"{label}: {error.problem}")
    if problems:
        raise ConfigError(
            "\n".join(dict.fromkeys(problems)),
            allowed="paths that every method has; others with `methods:`, the labels that have it",
            action="correct tuning.space",
        )


def check_sizes(
    config: ComparisonConfig, matched: Matched, shapes: Mapping[str, ModelShape]
) -> None:
    """Checks that no trial would undo the matching of sizes.

    Args:
        config: What is compared.
        matched: Settings of each method, by suite and label.
        shapes: The base model's, by suite.

    Raises:
        ConfigError: The space changes the size of methods whose sizes are matched.
    """
    if config.match == "none":
        return
    problems = []
    for (suite, label), study in _studies(config, matched).items():
        before = _count(matched[suite][label], shapes[suite])
        for path, parameter in study.space.items():
            sizes = {
                _count(study.trial_config({path: end}).method, shapes[suite])
                for end in parameter.ends()
            }
            if path.startswith("method.") and sizes != {before}:
                listed = ", ".join(f"{size:,}" for size in sorted(sizes))
                problems.append(f"{suite}, {label}: {path} makes it {listed}, not {before:,}")
    if problems:
        raise ConfigError(
            "the space changes sizes that are matched:\n" + "\n".join(f"  {p}" for p in problems),
            allowed="with match: parameters, paths that leave the number of parameters alone",
            action="remove these paths from tuning.space, or set match: none",
        )


def first_trials(config: ComparisonConfig, matched: Matched) -> list[Cell]:
    """A trial of each study, to try before anything trains."""
    return [
        Cell(
            name=study.name,
            folder=Path(),
            config=study.trial_config(first_values(study.space)),
            suite=suite,
            label=label,
            key=0,
        )
        for (suite, label), study in _studies(config, matched).items()
    ]


def run_studies(
    config: ComparisonConfig, folder: Path, matched: Matched, executor: Executor, console: Console
) -> None:
    """Runs the trials that are not there yet, one study after another."""
    for (suite, label), study in _studies(config, matched).items():
        place = _folder(folder, suite, label)
        content = _read(place)
        if content is None or not _is_complete(content, study):
            console.print(f"tuning {label} on {suite}", highlight=False, markup=False)
            tune(study, place, console, executor=executor)


def choose_values(config: ComparisonConfig, folder: Path, matched: Matched) -> dict[Place, Choice]:
    """What the trials chose, by suite and label; nothing for a method without a space."""
    factor = config.run.training.learning_rate_factor
    choices = {
        (suite, label): Choice(factor) for suite in config.suites for label in config.methods
    }
    for place, study in _studies(config, matched).items():
        content = _read(_folder(folder, *place))
        if content is None or not _is_complete(content, study):
            choices[place] = Choice(None, reason="the tuning trials are not finished")
            continue
        trials = {trial["number"]: trial for trial in content["trials"]}
        spent = {"trials": len(trials), "seconds": content["cost"]["seconds"]}
        if not content["best"]:
            reason = f"no tuning trial worked: {trials[0]['reason']}"
            choices[place] = Choice(None, reason=reason, **spent)
            continue
        values = trials[content["best"][0]]["values"]
        choices[place] = Choice(values.get(_FREE_FIELDS[0], factor), values=values, **spent)
    return choices


def _studies(config: ComparisonConfig, matched: Matched) -> dict[Place, StudyConfig]:
    """The study of each suite and label; none without trials, or for a method without a space."""
    tuning = config.tuning
    if tuning is None or tuning.space is None:
        return {}
    return {
        (suite, label): _study(config, tuning, suite, label, matched[suite][label])
        for suite in config.suites
        for label in config.methods
        if _space(tuning, label)
    }


def _study(
    config: ComparisonConfig,
    tuning: TuningSettings,
    suite: str,
    label: str,
    method: MethodSettings,
) -> StudyConfig:
    assert tuning.trials is not None
    run = apply_values(
        config.run_config(suite, method, tuning.seed), {"training.epochs": tuning.epochs}
    )
    return StudyConfig(
        name=f"{suite}-{label}",
        run=run,
        space=_space(tuning, label),
        sampler=tuning.sampler.model_copy(update={"seed": tuning.seed}),
        budget=BudgetSettings(trials=tuning.trials),
        failures=tuning.trials + 1,  # what fails is recorded, and the other methods go on
    )


def _space(tuning: TuningSettings, label: str) -> dict[str, Parameter]:
    assert tuning.space is not None
    return {
        path: parameter
        for path, parameter in tuning.space.items()
        if parameter.methods is None or label in parameter.methods
    }


def _count(settings: MethodSettings, shape: ModelShape) -> int:
    return sum(build_method(settings).count_parameters(shape).values())


def _folder(folder: Path, suite: str, label: str) -> Path:
    return folder / "tuning" / suite / label


def _read(study: Path) -> dict[str, Any] | None:
    path = study / "study.json"
    return read_json(path) if path.is_file() else None


def _is_complete(content: dict[str, Any], study: StudyConfig) -> bool:
    ended = [trial for trial in content["trials"] if trial["state"] != "running"]
    return len(ended) >= study.most_trials
