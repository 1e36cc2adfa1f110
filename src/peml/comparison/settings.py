"""The config of a comparison: methods, seeds, suites, and the shared settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from peml.config.loading import apply_overrides, read_config, validate_config
from peml.config.model import RunConfig
from peml.data.settings import BatchSettings, TasksSettings
from peml.errors import nearest
from peml.evaluation import EvaluationSettings
from peml.execution.settings import ExecutionSettings, WorkerSettings
from peml.methods.base import MethodSettings
from peml.methods.registry import MethodSection
from peml.models import ModelSettings
from peml.problems import Location
from peml.settings import ConfigFile, Settings
from peml.tasks import load_suite
from peml.training.settings import TrainingSettings
from peml.tuning.settings import SamplerSettings
from peml.tuning.space import Parameter

_ACTION = "correct them; examples/compare.yaml shows every section"
_OF_ONE_RUN = frozenset({"export", "method", "output", "seed", "tracking", "tuning_cost"})
"""Sections of a run's config that the runs of a comparison don't share."""


Place = tuple[str, str]
"""The labels of a suite and of a method."""


ValueT = TypeVar("ValueT")


def _refuse_repeated(values: tuple[ValueT, ...]) -> tuple[ValueT, ...]:
    repeated = list(dict.fromkeys(value for value in values if values.count(value) > 1))
    if repeated:
        listed = ", ".join(map(str, repeated))
        raise ValueError(f"{listed} is given twice: duplicate cells")
    return values


_Different = AfterValidator(_refuse_repeated)


class SharedSettings(ConfigFile):
    """The part of a run's config that all cells share; the tasks of each suite are added to it."""

    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    """The frozen base model."""
    batches: BatchSettings = Field(default_factory=lambda: BatchSettings())
    """How rows become batches."""
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings())
    """How the model is trained."""
    evaluation: EvaluationSettings = Field(default_factory=lambda: EvaluationSettings())
    """How the model is evaluated."""

    @field_validator("evaluation")
    @classmethod
    def _reports_the_reported_split(cls, evaluation: EvaluationSettings) -> EvaluationSettings:
        if evaluation.split != "reported":
            raise ValueError("split has to stay `reported`: the development split chooses rates")
        return evaluation


class TuningSettings(Settings):
    """Short tuning runs, equally many for each method: a learning-rate grid, or trials."""

    factors: Annotated[tuple[Annotated[float, Field(gt=0)], ...], _Different] = Field(
        (0.5, 1.0, 2.0), min_length=1
    )
    """Factors that multiply all learning rates; with a single value there is no grid."""
    trials: int | None = Field(None, ge=1)
    """Number of trials per method over `space`, instead of the grid."""
    space: dict[str, Parameter] | None = Field(None, min_length=1)
    """With trials: path into the run config and its values, as for `peml tune`, or the name of a
    file with these. `methods` lists the methods that have a path."""
    sampler: SamplerSettings = Field(default_factory=lambda: SamplerSettings())
    """With trials: how the next one is chosen."""
    epochs: float = Field(1.0, description="Epochs of each grid run or trial.", gt=0)
    seed: int = Field(0, description="Random seed of these runs and of the sampler.", ge=0)

    @model_validator(mode="before")
    @classmethod
    def _trials_without_a_grid(cls, written: Any) -> Any:
        if isinstance(written, dict) and written.get("trials") is not None:
            return {"factors": (1.0,), **written}
        return written

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.trials is None) != (self.space is None):
            raise ValueError("trials and space belong together: give both or neither")
        if self.trials is not None and self.factors != (1.0,):
            raise ValueError("give factors, or trials and space, not both")
        return self


def _usable_label(label: str) -> str:
    allowed = "_+-"
    if not label or not all(c.isascii() and (c.isalnum() or c in allowed) for c in label):
        raise ValueError(f"{label!r} names a folder: letters, digits and {allowed} only")
    return label


Label = Annotated[str, AfterValidator(_usable_label)]


class ComparisonConfig(ConfigFile):
    """The whole config of a comparison, with each suite's tasks written out."""

    run: SharedSettings = Field(default_factory=lambda: SharedSettings())
    """A run's config without method, seed and output, shared by all runs; or the name of a run's
    file, of which these are left out."""
    suites: dict[Label, TasksSettings] = Field(min_length=1)
    """Label: changes to `run.tasks`. `suite` is the label unless you set it. Default: `run.tasks`
    as it is."""
    methods: dict[Label, MethodSection] = Field(min_length=1)
    """Label: a run's method section. `name` is the label unless you set it. A list of names
    compares these methods as they are."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _Different] = Field(
        (0, 1, 2), min_length=1
    )
    """One run per seed, method and suite."""
    match: Literal["parameters", "none"] = "none"
    """parameters: change the methods' sizes to the same number of trainable parameters."""
    budget: int | None = Field(None, gt=0)
    """Trainable parameters per method, without heads; default: those of the reference."""
    reference: str | None = None
    """With match: label of the method that sets the budget; default: the first."""
    unmatched: tuple[str, ...] = ()
    """With match: labels of the methods that keep their own size."""
    focus: str | None = None
    """Label of the method that is compared with the baselines; default: peml, else the last
    that trains something."""
    tuning: TuningSettings | None = Field(default_factory=lambda: TuningSettings())
    """How learning rates or other settings are tuned for each method; null: use them as
    configured."""
    jobs: int = Field(1, description="Runs at a time; they share the cores.", ge=1)
    execution: WorkerSettings = Field(default_factory=lambda: WorkerSettings())
    """Where the runs execute."""
    keep_models: bool | Literal["first"] = "first"
    """Which final models are kept: the first seed's, true: all, false: none after measuring
    latency. `peml fit CELL/config.yaml --set export=true` saves another one later."""

    @field_validator("suites")
    @classmethod
    def _different_suites(cls, suites: dict[str, TasksSettings]) -> dict[str, TasksSettings]:
        seen: list[tuple[str, TasksSettings]] = []
        for label, tasks in suites.items():
            twin = next((other for other, same in seen if same == tasks), None)
            if twin is not None:
                raise ValueError(f"{label!r} has the same tasks as {twin!r}: duplicate cells")
            seen.append((label, tasks))
        return suites

    @field_validator("methods", mode="before")
    @classmethod
    def _named_by_their_labels(cls, methods: Any) -> Any:
        if isinstance(methods, list) and all(isinstance(label, str) for label in methods):
            methods = dict.fromkeys(_refuse_repeated(tuple(methods)))
        if not isinstance(methods, dict):
            return methods
        return {
            label: {"name": label, **(section or {})}
            if isinstance(section or {}, dict)
            else section
            for label, section in methods.items()
        }

    @field_validator("reference", "focus")
    @classmethod
    def _known_label(cls, label: str | None, info: ValidationInfo) -> str | None:
        # Missing if they are invalid themselves.
        methods: dict[str, MethodSettings] = info.data.get("methods", {})
        labels = list(methods)
        if not labels or label in labels:
            return label
        if label is None:
            if info.field_name == "reference" and info.data.get("match") == "none":
                return None
            if info.field_name == "reference":
                return labels[0]
            trained = [each for each in labels if methods[each].trains] or labels
            return "peml" if "peml" in labels else trained[-1]
        raise ValueError(
            f"there is no method of this label.{nearest(label, labels)} Valid: {', '.join(labels)}."
        )

    @field_validator("unmatched")
    @classmethod
    def _known_labels(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for label in labels:
            cls._known_label(label, info)
        return labels

    @field_validator("budget", "reference", "unmatched")
    @classmethod
    def _is_matched(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("match") == "none":
            raise ValueError("no method is matched, see match: set match: parameters, or remove it")
        return value

    @field_validator("tuning")
    @classmethod
    def _fits_run_and_methods(
        cls, tuning: TuningSettings | None, info: ValidationInfo
    ) -> TuningSettings | None:
        if tuning is None:
            return None
        run, methods = info.data.get("run"), info.data.get("methods")  # None if they are wrong
        factor = run.training.learning_rate_factor if run is not None else 1
        if tuning.trials is None and factor != 1:
            raise ValueError(
                f"the grid chooses run.training.learning_rate_factor, which is {factor:g}; remove "
                "that, or set tuning: null"
            )
        for path, parameter in (tuning.space or {}).items():
            for label in parameter.methods or ():
                if methods is not None and label not in methods:
                    raise ValueError(
                        f"space.{path} names the method {label!r}, which is not compared."
                        f"{nearest(label, methods)} Valid: {', '.join(methods)}."
                    )
        return tuning

    @field_validator("execution")
    @classmethod
    def _can_run_the_jobs(cls, execution: WorkerSettings, info: ValidationInfo) -> WorkerSettings:
        execution.check_jobs(info.data.get("jobs", 1))
        return execution

    def executor(self) -> ExecutionSettings:
        """Where the runs execute, and how many run at a time."""
        return ExecutionSettings(jobs=self.jobs, **self.execution.model_dump())

    @property
    def places(self) -> list[Place]:
        """Every combination of suite and method, by their labels."""
        return [(suite, label) for suite in self.suites for label in self.methods]

    def run_config(self, suite: str, method: MethodSettings, seed: int) -> RunConfig:
        """The config of one cell, before tuned values are applied."""
        return RunConfig(**dict(self.run), tasks=self.suites[suite], method=method, seed=seed)


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> ComparisonConfig:
    """Reads a comparison's config file and applies ``section.key=value`` overrides.

    Raises:
        PemlError: The file can't be read, or has errors; the message lists all.
    """
    raw = read_config(path, (), ComparisonConfig)
    if isinstance(raw.get("run"), str):
        raw["run"] = _shared_part(read_config(path.parent / raw["run"], (), RunConfig))
    raw = apply_overrides(raw, overrides)
    tuning = raw.get("tuning")
    if isinstance(tuning, dict) and isinstance(tuning.get("space"), str):
        space = read_config(path.parent / tuning["space"], (), TuningSettings)
        raw["tuning"] = {**tuning, "space": space}
    return parse_comparison(raw, str(path))


def _shared_part(run: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's raw config that the cells of a comparison can share."""
    return {key: value for key, value in run.items() if key not in _OF_ONE_RUN}


def parse_comparison(
    raw: Mapping[str, Any], origin: str = "the config", overrides: Sequence[str] = ()
) -> ComparisonConfig:
    """Validates a raw config and fills in the values that follow from it.

    Raises:
        PemlError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    written = apply_overrides(raw, overrides)
    run, suites = _with_suites(written)
    named = {"run": run, "suites": suites}

    def place(location: Location) -> Location:
        """The location in the user's file of an error: suites inherit from `run.tasks`."""
        if location[:1] != ("suites",):
            return location
        own = written.get("suites")
        changes = own.get(location[1]) if isinstance(own, dict) and location[1:] else own
        inherited = own is None or (location[2:] and location[2] not in (changes or {}))
        return ("run", "tasks", *location[2:]) if inherited else location

    return validate_config(ComparisonConfig, {**written, **named}, origin, _ACTION, place)


def _with_suites(written: Mapping[str, Any]) -> tuple[Any, Any]:
    run, suites = written.get("run"), written.get("suites")
    if not isinstance(run, dict):
        return run, suites
    tasks = run.get("tasks")
    run = {key: value for key, value in run.items() if key != "tasks"}
    if suites is None:
        return run, None if tasks is None else {_suite_name(tasks): tasks}
    if not isinstance(suites, dict) or not isinstance(tasks or {}, dict):
        return run, suites
    return run, {
        label: {**(tasks or {}), "suite": label, **(changes or {})}
        if isinstance(changes or {}, dict)
        else changes
        for label, changes in suites.items()
    }


def _suite_name(tasks: Any) -> str:
    suite = tasks.get("suite") if isinstance(tasks, dict) else None
    names = [suite] if isinstance(suite, str) else suite
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "tasks"
    return "+".join(load_suite(name).name for name in names) or "tasks"
