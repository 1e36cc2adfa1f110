"""The settings that a comparison's studies chose for each method and suite."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peml.comparison.cells import Matched
from peml.comparison.settings import ComparisonConfig, Place
from peml.comparison.studies import FACTOR, is_complete, studies_of, study_folder
from peml.records.comparison import GridPoint
from peml.records.study import StudyRecord


@dataclass(frozen=True)
class Choice:
    """The tuned settings of a method on a suite.

    `factor` multiplies its learning rates; None while tuning isn't done, and if all of it failed,
    for which `reason` says why. `grid` has the runs of a learning-rate grid, `values` what was
    chosen over a space by path into the run config, in so many `trials`; `seconds` is what the runs
    took.
    """

    factor: float | None
    grid: tuple[GridPoint, ...] = ()
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0

    @property
    def chosen(self) -> dict[str, Any]:
        """All chosen values, by path; empty before the choice."""
        return {} if self.factor is None else {FACTOR: self.factor, **self.values}


def forget_failed_trials(
    config: ComparisonConfig, folder: Path, matched: Matched, begun: Collection[Place]
) -> None:
    """Lets failed runs of a grid run again, except for places whose cells have begun."""
    for place, study in studies_of(config, matched).items():
        if study.sampler.name == "grid" and place not in begun:
            study_folder(folder, *place).forget_failures()


def choose_values(config: ComparisonConfig, folder: Path, matched: Matched) -> dict[Place, Choice]:
    """The tuned settings by suite and label; the configured factor if there was no choice."""
    tuning, factor = config.tuning, config.run.training.learning_rate_factor
    if tuning is not None and tuning.space is None:
        factor = tuning.factors[0]
    choices = dict.fromkeys(config.places, Choice(factor))
    for place, study in studies_of(config, matched).items():
        assert tuning is not None
        where = study_folder(folder, *place).path
        found, is_grid = StudyRecord.find(where), tuning.space is None
        if found is None or not is_complete(found, study):
            what = "learning-rate grid is" if is_grid else "tuning trials are"
            grid = tuple(GridPoint(factor=factor) for factor in tuning.factors) if is_grid else ()
            choices[place] = Choice(None, grid, f"the {what} not finished")
        elif is_grid:
            choices[place] = _choose_factor(tuning.factors, found, where.relative_to(folder))
        else:
            choices[place] = _choose_trial(factor, found)
    return choices


def _choose_factor(factors: Collection[float], study: StudyRecord, where: Path) -> Choice:
    """The factor with the best development mean; among equal ones, the nearest to 1."""
    trials = {trial.values[FACTOR]: trial for trial in study.trials}
    grid = tuple(
        GridPoint(
            factor=factor,
            mean=trials[factor].mean,
            folder=(where / trials[factor].folder).as_posix(),
            reason=trials[factor].reason,
        )
        for factor in factors
    )
    best = max(
        (run for run in grid if run.mean is not None),
        key=lambda run: (run.mean, -abs(math.log(run.factor))),
        default=None,
    )
    seconds = study.cost.seconds
    if best is None:
        reason = f"no run of the learning-rate grid worked: {grid[0].reason}"
        return Choice(None, grid, reason, seconds=seconds)
    return Choice(best.factor, grid, seconds=seconds)


def _choose_trial(factor: float, study: StudyRecord) -> Choice:
    """The values of the best trial; the factor is the configured one unless they contain it."""
    trials, seconds = len(study.trials), study.cost.seconds
    if not study.best:
        reason = f"no tuning trial worked: {study.trials[0].reason}"
        return Choice(None, reason=reason, trials=trials, seconds=seconds)
    values = study.front()[0].values
    return Choice(values.get(FACTOR, factor), values=values, trials=trials, seconds=seconds)
