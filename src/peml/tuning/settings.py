"""The config of `peml tune`: the space, the sampler, the pruner, the budget."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from peml.config.grants import without_grants
from peml.config.loading import apply_overrides, read_config, validate_config
from peml.config.model import RunConfig
from peml.execution.settings import ExecutionSettings
from peml.settings import ConfigFile, Settings
from peml.tuning.objectives import ObjectiveName
from peml.tuning.space import Parameter, apply_values, check_space

_ACTION = "correct them; examples/tune-demo.yaml shows every section"


class SamplerSettings(Settings):
    """How the next trial is chosen."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimator; random: random search; grid: every combination."""
    seed: int = Field(0, description="Random seed of the sampler.", ge=0)
    startup: int = Field(10, ge=1)
    """tpe: number of random trials before it starts to model the results."""
    candidates: int = Field(24, ge=1)
    """tpe: candidates drawn per trial; the most promising one is tried."""
    quantile: float = Field(0.25, gt=0, lt=1)
    """tpe: fraction of the trials that counts as good, at most 25 trials. Optuna's own 0.1 leaves
    one trial of ten, which is too few in a study of one or two dozen."""
    multivariate: bool = Field(True, description="tpe: model the parameters jointly.")
    constant_liar: bool = True
    """tpe: avoid values close to those of trials that are still running."""


class PrunerSettings(Settings):
    """Whether trials that fall behind are stopped early."""

    name: Literal["none", "hyperband"] = "none"
    """hyperband: stop trials early that fall behind at their development evaluations."""
    reduction: int = Field(3, ge=2)
    """At each rung about one in this many trials continues."""
    least: float = Field(0.1, gt=0, lt=1)
    """Fraction of its steps that a trial makes before it can be stopped."""


class StorageSettings(Settings):
    """Where trials are kept."""

    url: str | None = Field(
        None,
        description="URL of a database for several machines, such as "
        "postgresql+psycopg://user@host/name; default: a journal file in the study's folder.",
        repr=False,  # it may hold a password
    )
    wait: float = Field(600.0, ge=0)
    """Seconds to wait for a database that can't be reached before the study stops."""


class BudgetSettings(Settings):
    """Limits of a study; no trial is started after one of them is reached."""

    trials: int | None = Field(None, ge=1)
    """Maximum number of trials, including failed ones."""
    hours: float | None = Field(None, gt=0)
    """Maximum working time of this machine in hours."""
    tokens: int | None = Field(None, ge=1)
    """Maximum training tokens of all trials together."""


class StudyConfig(ConfigFile):
    """The config of a study."""

    name: str
    """Name of the study in a shared database; default: the config file's name."""
    run: RunConfig
    """The run config that the trials vary, or the name of its file."""
    space: dict[str, Parameter] = Field(min_length=1)
    """Path into `run`: a list of values, or {low, high, log, step}."""
    sampler: SamplerSettings = Field(default_factory=lambda: SamplerSettings())
    """How the next trial is chosen."""
    objectives: tuple[ObjectiveName, ...] = Field(("mean",), min_length=1, max_length=2)
    """mean (the development metric, maximised), alone or with one of parameters, latency, seconds,
    tokens (minimised)."""
    pruner: PrunerSettings = Field(default_factory=lambda: PrunerSettings())
    """Whether weak trials are stopped early."""
    storage: StorageSettings = Field(default_factory=lambda: StorageSettings())
    """Where the trials are stored."""
    budget: BudgetSettings = Field(default_factory=lambda: BudgetSettings())
    """When the study ends."""
    execution: ExecutionSettings = Field(default_factory=lambda: ExecutionSettings())
    """Where trials run."""
    failures: int = Field(3, ge=1)
    """Stop if this many trials fail at the start of a session."""

    @field_validator("run")
    @classmethod
    def _trials_have_folders_of_their_own(cls, run: RunConfig) -> RunConfig:
        return run.model_copy(update={"output": None})

    @field_validator("objectives")
    @classmethod
    def _mean_comes_first(cls, objectives: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if objectives[0] != "mean" or len(set(objectives)) != len(objectives):
            raise ValueError("mean comes first, and at most one other follows")
        return objectives

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.pruner.name != "none" and len(self.objectives) > 1:
            raise ValueError("pruner: trials with two objectives can't be compared while they run")
        if self.sampler.name == "grid":
            endless = [path for path, p in self.space.items() if p.grid() is None]
            if endless:
                raise ValueError(f"sampler: a grid needs a list or a step for {', '.join(endless)}")
        elif self.budget == BudgetSettings():
            raise ValueError("budget: give trials, hours or tokens")
        return self

    @property
    def most_trials(self) -> float:
        """How many trials there will be at most."""
        limit = math.inf if self.budget.trials is None else self.budget.trials
        if self.sampler.name != "grid":
            return limit
        return min(limit, math.prod(len(p.grid() or ()) for p in self.space.values()))

    def trial_config(self, values: Mapping[str, Any]) -> RunConfig:
        """The run config of a trial, which is scored on the development split and not exported.

        Raises:
            ConfigError: The values don't go together.
        """
        config = apply_values(self.run, values)
        scored = {"split": "development", "ablations": False}
        return config.model_copy(
            update={
                "evaluation": config.evaluation.model_copy(update=scored),
                "export": False,
                "output": None,
            }
        )

    def definition(self) -> dict[str, Any]:
        """The part of the config that must not change between sessions."""
        kept = {"run", "space", "sampler", "objectives", "pruner"}
        definition: dict[str, Any] = without_grants(self.model_dump(mode="json", include=kept))
        return definition


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Reads a study's config file and applies ``section.key=value`` overrides.

    Raises:
        PemlError: A file can't be read or has problems; all of them are listed.
    """
    raw = read_config(path, (), StudyConfig)
    if isinstance(raw.get("run"), str):
        raw["run"] = read_config(path.parent / raw["run"], (), RunConfig)
    return parse_study({"name": path.stem, **apply_overrides(raw, overrides)}, str(path))


def parse_study(raw: Mapping[str, Any], origin: str = "the config") -> StudyConfig:
    """Validates a config, and tries both ends of every range on the run config.

    Raises:
        PemlError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    config = validate_config(StudyConfig, raw, origin, _ACTION)
    check_space(config.run, config.space)
    return config
