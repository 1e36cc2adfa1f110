"""The settings that were equal for all methods, printed with the results."""

from collections.abc import Iterable, Mapping, Sequence

from peml.comparison.matching import ComparedTask, Matching
from peml.comparison.settings import ComparisonConfig
from peml.records.comparison import SuiteRecord
from peml.tasks import TaskType
from peml.training.balancing import BalancingSettings
from peml.training.settings import TrainingSettings

_FINAL = {"best": "those of the best development mean", "last": "the last"}


def list_equal(
    config: ComparisonConfig,
    matching: Matching,
    suites: Sequence[SuiteRecord],
    versions: Sequence[Mapping[str, str]],
) -> list[tuple[str, str]]:
    """The names and values of equal settings; `versions` are those of each cell's packages."""
    training, batches = config.run.training, config.run.batches
    tasks = [task for suite in matching.tasks.values() for task in suite]
    batch = f"at most {batches.rows} rows and {batches.tokens:,} tokens, {batches.mixing.strategy}"
    return [
        ("epochs", f"{training.epochs:g}"),
        ("steps", "; ".join(_steps(suite) for suite in suites)),
        ("batches", batch + (f", x {training.accumulation}" if training.accumulation > 1 else "")),
        ("train rows per task", _range(task.train for task in tasks)),
        ("data order", "a function of the seed and the epoch; seeds " + _listed(config.seeds)),
        ("templates", "version " + _listed(sorted({task.version for task in tasks}))),
        ("shots", _range(task.shots for task in tasks)),
        ("loss", "on the answer alone, never on the prompt" + _balancing(training.balancing)),
        ("precision", _precision(suites) or training.precision),
        ("schedule", _schedule(training)),
        ("final weights", _FINAL[training.keep]),
        ("splits", "development rows carved from train, the same for all seeds; they alone choose"),
        ("decoding", _decoding(config, tasks)),
        ("tuning", _tuning(config)),
        ("packages", _packages(versions)),
    ]


def _schedule(training: TrainingSettings) -> str:
    clipped = " per group" if training.clip_by == "group" else ""
    return f"{training.schedule}, warm-up {training.warmup:g}, clip {training.clip:g}{clipped}"


def _balancing(balancing: BalancingSettings) -> str:
    plain = BalancingSettings()
    return "" if balancing == plain else f"; balanced: {balancing.strategy}, {balancing.normalise}"


def _steps(suite: SuiteRecord) -> str:
    """The cells' steps, and whether they are equal for each seed, since batches differ by seed."""
    by_seed: dict[int, set[int]] = {}
    for row in suite.rows:
        for cell in row.cells:
            if cell.steps:  # a zero-shot method makes no steps
                by_seed.setdefault(cell.seed, set()).add(cell.steps)
    if not by_seed:
        return f"none finished on {suite.name}"
    made = sorted(set().union(*by_seed.values()))
    unequal = any(len(steps) > 1 for steps in by_seed.values())
    return f"{_range(made)} on {suite.name}" + (" (NOT equal)" * unequal)


def _precision(suites: Sequence[SuiteRecord]) -> str:
    """The precision of the cells; empty if none recorded it."""
    cells = (cell for suite in suites for row in suite.rows for cell in row.cells)
    found = sorted({cell.precision for cell in cells if cell.precision is not None})
    return " and ".join(found) + " (NOT equal)" * (len(found) > 1)


def _packages(versions: Sequence[Mapping[str, str]]) -> str:
    """The packages of which the runs had several versions."""
    found = {
        name: sorted({run[name] for run in versions if name in run})
        for name in sorted({name for run in versions for name in run})
    }
    several = [f"{name} {' and '.join(each)}" for name, each in found.items() if len(each) > 1]
    return f"{'; '.join(several)} (NOT equal)" if several else "the same versions in all runs"


def _decoding(config: ComparisonConfig, tasks: Sequence[ComparedTask]) -> str:
    default = config.run.evaluation.max_new_tokens
    longest = [task.max_new_tokens or default for task in tasks if TaskType(task.type).generates]
    if longest:
        return f"options by their score; texts greedily, {_range(longest)} tokens"
    return "options by their score"


def _tuning(config: ComparisonConfig) -> str:
    tuning = config.tuning
    if tuning is not None and tuning.space is not None:
        listed = ", ".join(tuning.space)
        return (
            f"{tuning.trials} trials per method ({tuning.sampler.name}) over {listed}; "
            f"{tuning.epochs:g} epochs, seed {tuning.seed}, chosen on the development split"
        )
    if tuning is None or len(tuning.factors) == 1:
        return "none: learning rates as configured"
    return (
        f"{len(tuning.factors)} runs per method: its learning rates x {_listed(tuning.factors)}, "
        f"{tuning.epochs:g} epochs, seed {tuning.seed}, chosen on the development split"
    )


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
