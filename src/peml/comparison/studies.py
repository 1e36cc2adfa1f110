"""The studies of a comparison: one per method and suite, with equally many runs."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from peml.comparison.cells import Cell, Matched
from peml.comparison.matching import Matching
from peml.comparison.settings import ComparisonConfig, Place, TuningSettings
from peml.errors import ConfigError
from peml.execution.executor import Executor
from peml.methods.base import MethodSettings
from peml.methods.registry import build_method
from peml.methods.shape import ModelShape
from peml.records.study import StudyRecord
from peml.tuning.folder import StudyFolder
from peml.tuning.settings import BudgetSettings, SamplerSettings, StudyConfig
from peml.tuning.space import Parameter, apply_values, check_space, first_values

FACTOR = "training.learning_rate_factor"
"""The path in the run config that a learning-rate grid varies."""

_FREE = ("method.", "training.learning_rates.")
_FREE_FIELDS = (FACTOR, "training.weight_decay")


def check_spaces(config: ComparisonConfig) -> None:
    """Checks the space of each method on each suite; does nothing without trials.

    Raises:
        ConfigError: A path must be equal for all methods or is missing in one, or a method refuses
            a value; the message lists all.
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
    for suite, label in config.places:
        run = config.run_config(suite, config.methods[label], tuning.seed)
        try:
            check_space(run, _space(tuning, label))
        except ConfigError as error:
            problems.append(f"{label}: {error.problem}")
    if problems:
        raise ConfigError(
            "\n".join(dict.fromkeys(problems)),
            allowed="paths that every method has; others with `methods:`, the labels that have it",
            action="correct tuning.space",
        )


def check_sizes(
    config: ComparisonConfig, matched: Matched, shapes: Mapping[Place, ModelShape]
) -> None:
    """Checks that no trial changes a matched size.

    Raises:
        ConfigError: The space changes the size of methods whose sizes are matched.
    """
    if config.match == "none":
        return
    problems = []
    for (suite, label), study in studies_of(config, matched).items():
        shape = shapes[suite, label]
        before = _count(matched[suite][label], shape)
        for path, parameter in study.space.items():
            if not path.startswith("method."):
                continue
            sizes = {
                _count(study.trial_config({path: end}).method, shape) for end in parameter.ends()
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
    """One trial of each study, to try before anything is trained."""
    return [
        Cell(
            name=study.name,
            folder=Path(),
            config=study.trial_config(first_values(study.space)),
            suite=suite,
            label=label,
            seed=study.run.seed,
        )
        for (suite, label), study in studies_of(config, matched).items()
    ]


def run_studies(
    config: ComparisonConfig, folder: Path, matching: Matching, executor: Executor, console: Console
) -> None:
    """Runs the trials that haven't run yet, without a pause between studies."""
    left = [
        (study_folder(folder, *place).path, study, matching.identities[place[0]])
        for place, study in studies_of(config, matching.settings).items()
        if not is_complete(StudyRecord.find(study_folder(folder, *place).path), study)
    ]
    if not left:
        return
    from peml.tuning.pipeline import tune_together  # imports SQLAlchemy and Optuna

    tune_together(
        left,
        executor,
        console,
        pages=config.tuning is not None and config.tuning.space is not None,  # ours shows a grid
    )


def studies_of(config: ComparisonConfig, matched: Matched) -> dict[Place, StudyConfig]:
    """The study of each suite and label; empty if there is nothing to choose."""
    tuning = config.tuning
    if tuning is None:
        return {}
    return {
        (suite, label): _study(config, tuning, suite, label, matched[suite][label])
        for suite, label in config.places
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
        failures=trials + 1,  # failures are recorded, and other methods continue
    )


def _space(tuning: TuningSettings, label: str) -> dict[str, Parameter]:
    if tuning.space is None:
        several = len(tuning.factors) > 1
        return {FACTOR: Parameter(choices=tuning.factors)} if several else {}
    return {
        path: parameter
        for path, parameter in tuning.space.items()
        if parameter.methods is None or label in parameter.methods
    }


def study_folder(folder: Path, suite: str, label: str) -> StudyFolder:
    """The folder of a study inside a comparison's folder."""
    return StudyFolder(folder / "tuning" / suite / label)


def is_complete(found: StudyRecord | None, study: StudyConfig) -> bool:
    """Whether all trials have ended."""
    ended = () if found is None else found.in_state("finished", "pruned", "failed")
    return len(ended) >= study.most_trials


def _count(settings: MethodSettings, shape: ModelShape) -> int:
    return sum(build_method(settings).count_parameters(shape).values())
