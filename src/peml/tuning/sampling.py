"""Optuna's samplers and pruners, with everything that decides their choice written out."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from peml.tuning.settings import PrunerSettings, SamplerSettings
from peml.tuning.space import Parameter

WHOLE = 100
"""A whole run, in the unit a pruner counts in: percent of the run's steps."""

_MOST_GOOD = 25  # as in Optuna


class _Grid(GridSampler):
    """Optuna's grid, without its call that stops Optuna's own loop: our budget ends the study."""

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing is left to do."""


def build_sampler(
    settings: SamplerSettings, space: Mapping[str, Parameter], number: int, *place: int
) -> BaseSampler:
    """The sampler of one trial, or of one parameter of a trial.

    What it draws depends on the seed, the trial's number and the parameter's place only, so a
    study that was killed draws for later trials what it would have drawn.

    `place` is the parameter's place in the space, if it is drawn by itself. All options of TPE
    (Bergstra et al. 2011) are given, because Optuna's defaults differ between its versions.
    """
    if settings.name == "grid":
        return _Grid({path: p.grid() or [] for path, p in space.items()}, seed=settings.seed)
    seed = int(np.random.SeedSequence([settings.seed, number, *place]).generate_state(1)[0])
    if settings.name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Optuna 6 may drop it, and nothing else sets the quantile: then this call fails.
        warnings.filterwarnings("ignore", "`gamma` has been deprecated", FutureWarning)
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna 4's word for two arguments
        return TPESampler(
            seed=seed,
            n_startup_trials=settings.startup,
            n_ei_candidates=settings.candidates,
            gamma=lambda trials: min(math.ceil(settings.quantile * trials), _MOST_GOOD),
            multivariate=settings.multivariate,
            group=False,
            constant_liar=settings.constant_liar,
        )


def build_pruner(settings: PrunerSettings) -> BasePruner:
    """Hyperband (Li et al. 2018) over the share of a run's steps, or none."""
    if settings.name == "none":
        return NopPruner()
    return HyperbandPruner(
        min_resource=max(1, round(WHOLE * settings.least)),
        max_resource=WHOLE,
        reduction_factor=settings.reduction,
    )
