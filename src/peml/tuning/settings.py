"""What a study tries, how it chooses, what it may cost: the config of `peml tune`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from peml.config import (
    RunConfig,
    apply_overrides,
    read_config,
    validate_config,
    without_grants,
)
from peml.execution import ExecutionSettings
from peml.settings import ConfigFile, Settings
from peml.tuning.objectives import ObjectiveName
from peml.tuning.space import Parameter, apply_values, check_space

_ACTION = "correct them; examples/tune-demo.yaml shows every section"


class SamplerSettings(Settings):
    """How the next trial is chosen."""

    name: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="Tree-structured Parzen estimator, random search, or every combination."
    )
    seed: int = Field(0, description="Decides the draws, trial by trial.", ge=0)
    startup: int = Field(10, description="tpe: trials drawn at random before it models.", ge=1)
    candidates: int = Field(24, description="tpe: draws among which the best ratio wins.", ge=1)
    quantile: float = Field(
        0.25,
        description="tpe: share of the trials whose parameters it looks for again, 25 at most. "
        "Optuna's own 0.1 leaves one of ten, too few to model in a study of one or two dozen.",
        gt=0,
        lt=1,
    )
    multivariate: bool = Field(True, description="tpe: model the parameters jointly.")
    constant_liar: bool = Field(
        True, description="tpe: keep away from trials that are still running."
    )


class PrunerSettings(Settings):
    """Whether trials that fall behind are stopped early."""

    name: Literal["none", "hyperband"] = Field(
        "none", description="hyperband compares the development evaluations while trials run."
    )
    reduction: int = Field(3, description="About one in so many trials goes on at a rung.", ge=2)
    least: float = Field(
        0.1, description="Share of its steps a trial has made before it can be stopped.", gt=0, lt=1
    )


class StorageSettings(Settings):
    """Where trials are kept."""

    url: str | None = Field(
        None,
        description="Database to share, such as postgresql+psycopg://user@host/name; default: a "
        "journal file in the study's folder.",
        repr=False,  # it may hold a password
    )
    wait: float = Field(
        600.0, description="Seconds to wait for a database that is away before giving up.", ge=0
    )


class BudgetSettings(Settings):
    """When no more trials are started; the first limit that is reached counts."""

    trials: int | None = Field(None, description="Trials of the study, failed ones too.", ge=1)
    hours: float | None = Field(None, description="Hours this driver works.", gt=0)
    tokens: int | None = Field(None, description="Training tokens of all trials.", ge=1)


class StudyConfig(ConfigFile):
    """Everything that decides a study."""

    name: str = Field(description="Of the study, in a shared database; default: the file's name.")
    run: RunConfig = Field(description="The run config that the trials vary, or its file.")
    space: dict[str, Parameter] = Field(
        description="Path into `run`: a list of values, or {low, high, log, step}.", min_length=1
    )
    sampler: SamplerSettings = Field(
        default_factory=lambda: SamplerSettings(), description="How the next trial is chosen."
    )
    objectives: tuple[ObjectiveName, ...] = Field(
        ("mean",),
        description="mean (development metric, the higher the better), alone or with one of "
        "parameters, latency, seconds, tokens (the lower the better).",
        min_length=1,
        max_length=2,
    )
    pruner: PrunerSettings = Field(
        default_factory=lambda: PrunerSettings(), description="Whether weak trials stop early."
    )
    storage: StorageSettings = Field(
        default_factory=lambda: StorageSettings(), description="Where trials are kept."
    )
    budget: BudgetSettings = Field(
        default_factory=lambda: BudgetSettings(), description="When the study ends."
    )
    execution: ExecutionSettings = Field(
        default_factory=lambda: ExecutionSettings(), description="Where trials run."
    )
    failures: int = Field(
        3, description="Stop when the first so many trials of a session fail.", ge=1
    )

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
    def _parts_fit(self) -> StudyConfig:
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
        """The run config of a trial: scored on the development split, nothing else made.

        Args:
            values: By path.

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
        """What must not change while the study goes on."""
        kept = {"run", "space", "sampler", "objectives", "pruner"}
        definition: dict[str, Any] = without_grants(self.model_dump(mode="json", include=kept))
        return definition


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Reads a study's config file and applies ``section.key=value`` overrides.

    Raises:
        PemlError: A file can't be read, or anything in it is wrong; all at once.
    """
    raw = read_config(path, (), StudyConfig)
    if isinstance(raw.get("run"), str):
        raw["run"] = read_config(path.parent / raw["run"], (), RunConfig)
    return parse_study({"name": path.stem, **apply_overrides(raw, overrides)}, str(path))


def parse_study(raw: Mapping[str, Any], origin: str = "the config") -> StudyConfig:
    """Validates a raw config, and every end of the space on the run config.

    Raises:
        PemlError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    config = validate_config(StudyConfig, raw, origin, _ACTION)
    check_space(config.run, config.space)
    return config
