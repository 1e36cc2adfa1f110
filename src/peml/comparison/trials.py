"""Tuning in a comparison: a study per method and suite, with the same number of runs each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from peml.comparison.cells import Cell, Matched
from peml.comparison.matching import Matching
from peml.comparison.settings import ComparisonConfig, TuningSettings
from peml.errors import ConfigError, RunError
from peml.execution import Executor
from peml.files import read_json
from peml.methods import MethodSettings, ModelShape, build_method
from peml.tuning import (
    BudgetSettings,
    Parameter,
    SamplerSettings,
    StudyConfig,
    StudyFolder,
    apply_values,
    check_space,
    first_values,
    tune_together,
)

__all__ = [
    "Choice",
    "check_sizes",
    "check_spaces",
    "choose_values",
    "first_trials",
    "forget_failed_trials",
    "refuse_older_grids",
    "run_studies",
]

Place = tuple[str, str]

_FREE = ("method.", "training.learning_rates.")
_FACTOR = "training.learning_rate_factor"
_FREE_FIELDS = (_FACTOR, "training.weight_decay")


@dataclass(frozen=True)
class Choice:
    """What tuning chose for a method on a suite.

    Attributes:
        factor: What its learning rates are multiplied with; None while tuning isn't done, and if
            all of it failed.
        grid: The runs of a learning-rate grid, as ``comparison.json`` has them.
        reason: Why there is no factor.
        values: Chosen over a space, by path into the run config.
        trials: How many there were over a space.
        seconds: What the runs took.
    """

    factor: float | None
    grid: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0

    @property
    def chosen(self) -> dict[str, Any]:
        """Everything that was chosen, by path; empty while the choice isn't made."""
        return {} if self.factor is None else {_FACTOR: self.factor, **self.values}


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
            if not path.startswith("method."):
                continue
            sizes = {
                _count(study.trial_config({path: end}).method, shapes[suite])
                for end in parameter.ends()
            }
            if sizes != {before}:
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
            seed=study.run.seed,
        )
        for (suite, label), study in _studies(config, matched).items()
    ]


def refuse_older_grids(folder: Path) -> None:
    """Refuses a folder with a learning-rate grid of a version that made no studies of them.

    Raises:
        RunError: It has one.
    """
    for run in folder.glob("tuning/*/*/factor-*"):
        raise RunError(
            f"{run} is a run of a learning-rate grid that an earlier version of peml began",
            allowed="a comparison whose grid is a study per method and suite",
            action="start the comparison in a new folder; the report of this one stays as it is",
        )


def run_studies(
    config: ComparisonConfig, folder: Path, matching: Matching, executor: Executor, console: Console
) -> None:
    """Runs the trials that are not there yet; the next study's follow the last of one at once."""
    tune_together(
        [
            (_folder(folder, *place).path, study, matching.identities.get(place[0]))
            for place, study in _studies(config, matching.settings).items()
            if not _is_complete(_read(_folder(folder, *place)), study)
        ],
        executor,
        console,
        pages=config.tuning is not None and config.tuning.space is not None,  # ours shows a grid
    )


def forget_failed_trials(
    config: ComparisonConfig, folder: Path, matched: Matched, begun: Collection[Place]
) -> None:
    """Lets failed runs of a learning-rate grid run again, but for the places whose cells began."""
    for place, study in _studies(config, matched).items():
        if study.sampler.name == "grid" and place not in begun:
            _folder(folder, *place).forget_failures()


def choose_values(config: ComparisonConfig, folder: Path, matched: Matched) -> dict[Place, Choice]:
    """What tuning chose, by suite and label; the factor as configured where it had no choice."""
    tuning, factor = config.tuning, config.run.training.learning_rate_factor
    if tuning is not None and tuning.space is None:
        factor = tuning.factors[0]
    choices = {
        (suite, label): Choice(factor) for suite in config.suites for label in config.methods
    }
    for place, study in _studies(config, matched).items():
        assert tuning is not None
        where = _folder(folder, *place)
        content, is_grid = _read(where), tuning.space is None
        if content is None or not _is_complete(content, study):
            what = "learning-rate grid is" if is_grid else "tuning trials are"
            grid = tuple(map(_untried, tuning.factors)) if is_grid else ()
            choices[place] = Choice(None, grid, f"the {what} not finished")
        elif is_grid:
            choices[place] = _choose_factor(tuning.factors, content, where.path.relative_to(folder))
        else:
            choices[place] = _choose_trial(factor, content)
    return choices


def _untried(factor: float) -> dict[str, Any]:
    return {"factor": factor, "mean": None, "folder": "", "reason": ""}


def _choose_factor(factors: Collection[float], content: dict[str, Any], where: Path) -> Choice:
    """The factor of the best development mean; of equal ones the nearest to 1."""
    trials = {trial["values"][_FACTOR]: trial for trial in content["trials"]}
    grid = tuple(
        {
            "factor": factor,
            "mean": next(iter(trials[factor]["objectives"]), None),
            "folder": (where / trials[factor]["folder"]).as_posix(),
            "reason": trials[factor]["reason"],
        }
        for factor in factors
    )
    best = max(
        (run for run in grid if run["mean"] is not None),
        key=lambda run: (run["mean"], -abs(math.log(run["factor"]))),
        default=None,
    )
    seconds = content["cost"]["seconds"]
    if best is None:
        reason = f"no run of the learning-rate grid worked: {grid[0]['reason']}"
        return Choice(None, grid, reason, seconds=seconds)
    return Choice(best["factor"], grid, seconds=seconds)


def _choose_trial(factor: float, content: dict[str, Any]) -> Choice:
    """The values of the best trial, and the factor that was configured if they have none."""
    trials = {trial["number"]: trial for trial in content["trials"]}
    spent = {"trials": len(trials), "seconds": content["cost"]["seconds"]}
    if not content["best"]:
        reason = f"no tuning trial worked: {trials[0]['reason']}"
        return Choice(None, reason=reason, **spent)
    values = trials[content["best"][0]]["values"]
    return Choice(values.get(_FACTOR, factor), values=values, **spent)


def _studies(config: ComparisonConfig, matched: Matched) -> dict[Place, StudyConfig]:
    """The study of each suite and label; none where there is nothing to choose from."""
    tuning = config.tuning
    if tuning is None:
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
    run = apply_values(
        config.run_config(suite, method, tuning.seed), {"training.epochs": tuning.epochs}
    )
    trials = tuning.trials or len(tuning.factors)
    sampler = SamplerSettings(name="grid") if tuning.space is None else tuning.sampler
    return StudyConfig(
        name=f"{suite}-{label}",
        run=run,
        space=_space(tuning, label),
        sampler=sampler.model_copy(update={"seed": tuning.seed}),
        budget=BudgetSettings(trials=trials),
        failures=trials + 1,  # what fails is recorded, and the other methods go on
    )


def _space(tuning: TuningSettings, label: str) -> dict[str, Parameter]:
    if tuning.space is None:
        several = len(tuning.factors) > 1
        return {_FACTOR: Parameter(choices=tuning.factors)} if several else {}
    return {
        path: parameter
        for path, parameter in tuning.space.items()
        if parameter.methods is None or label in parameter.methods
    }


def _count(settings: MethodSettings, shape: ModelShape) -> int:
    return sum(build_method(settings).count_parameters(shape).values())


def _folder(folder: Path, suite: str, label: str) -> StudyFolder:
    return StudyFolder(folder / "tuning" / suite / label)


def _read(study: StudyFolder) -> dict[str, Any] | None:
    return read_json(study.results) if study.results.is_file() else None


def _is_complete(content: dict[str, Any] | None, study: StudyConfig) -> bool:
    if content is None:
        return False
    ended = [trial for trial in content["trials"] if trial["state"] != "running"]
    return len(ended) >= study.most_trials
