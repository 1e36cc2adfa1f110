"""PEML: parameter-efficient multi-task learning of language models.

One frozen language model, many tasks, one small adapter: LoRA trained together with a continuous
prefix whose generating network is searched (arXiv 2605.14055).

    >>> run = peml.fit("examples/demo.yaml")
    >>> model = peml.load(run.folder)
    >>> model.predict("reviews", [{"review": "A quiet, lovely film."}])
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peml.errors import PemlError
from peml.lazy import hand_on
from peml.versions import VERSION

if TYPE_CHECKING:
    from peml.comparison.pipeline import Comparison
    from peml.comparison.settings import ComparisonConfig
    from peml.config.model import RunConfig
    from peml.injection.inject import PrefixInjection, attach_prefix
    from peml.injection.quiet import measure_start
    from peml.prefix.genotype import Genotype
    from peml.prefix.network import PrefixNetwork
    from peml.prefix.prefix import Prefix, PrefixStart
    from peml.prefix.settings import PrefixSettings
    from peml.prefix.shape import PrefixShape
    from peml.prefix.space import SearchSpace
    from peml.prefix.supernet import PrefixSupernet
    from peml.run.pipeline import Run
    from peml.search.controller import SearchController
    from peml.search.settings import SearchSettings
    from peml.serving import Prediction, Predictor, load
    from peml.tasks import Suite, Task, load_suite
    from peml.tuning.pipeline import Tuned
    from peml.tuning.settings import StudyConfig
else:
    __getattr__ = hand_on(__name__)

__version__ = VERSION

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "Genotype",
    "PemlError",
    "Prediction",
    "Predictor",
    "Prefix",
    "PrefixInjection",
    "PrefixNetwork",
    "PrefixSettings",
    "PrefixShape",
    "PrefixStart",
    "PrefixSupernet",
    "Run",
    "RunConfig",
    "SearchController",
    "SearchSettings",
    "SearchSpace",
    "StudyConfig",
    "Suite",
    "Task",
    "Tuned",
    "attach_prefix",
    "compare",
    "fit",
    "load",
    "load_suite",
    "measure_start",
    "tune",
]


def fit(
    config: RunConfig | Mapping[str, Any] | Path | str,
    output: Path | str | None = None,
    *,
    overrides: tuple[str, ...] = (),
    progress: bool = False,
) -> Run:
    """Trains, evaluates, saves and reports; continues an existing run folder.

    Args:
        config: A config, its content as a mapping, or the path of its YAML file.
        output: The run folder; default: the config's ``output``, or ``runs/`` and the name of
            the config file.
        overrides: ``section.key=value`` strings, for a mapping or a file.
        progress: Show a progress bar.

    Raises:
        PemlError: Something is wrong with config, data, model or folder, or training diverged.
    """
    from rich.console import Console

    from peml.config.loading import apply_overrides, load_config, parse_config
    from peml.config.model import RunConfig
    from peml.run.pipeline import fit as run_fit

    name = "run"
    if isinstance(config, (str, Path)):
        name = Path(config).stem
        settings = load_config(Path(config), overrides)
    elif isinstance(config, RunConfig):
        settings = config
    else:
        settings = parse_config(apply_overrides(config, overrides))
    folder = Path(output or settings.output or f"runs/{name}")
    return run_fit(settings, folder, Console(quiet=not progress))


def compare(
    config: ComparisonConfig | Mapping[str, Any] | Path | str,
    output: Path | str | None = None,
    *,
    overrides: tuple[str, ...] = (),
    jobs: int | None = None,
    retry_failed: bool = False,
    progress: bool = False,
) -> Comparison:
    """Runs methods x seeds x suites at equal cost and reports; continues an existing folder.

    Every run has a process of its own, which imports the calling script again: keep the call below
    ``if __name__ == "__main__":`` there.

    Args:
        config: A config, its content as a mapping, or the path of its YAML file.
        output: The folder; default: ``runs/`` and the name of the config file.
        overrides: ``section.key=value`` strings, for a mapping or a file.
        jobs: Runs at a time; default: the config's ``jobs``.
        retry_failed: Run the cells that failed again.
        progress: Print the plan, and a line for each run.

    Raises:
        PemlError: Something is wrong with config, data, model or folder. A run that fails is
            recorded and the others continue.
    """
    from rich.console import Console

    from peml.comparison.pipeline import compare as run_comparison
    from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison

    name = "comparison"
    if isinstance(config, (str, Path)):
        name = Path(config).stem
        settings = load_comparison(Path(config), overrides)
    elif isinstance(config, ComparisonConfig):
        settings = config
    else:
        settings = parse_comparison(config, overrides=overrides)
    if jobs is not None:
        settings = settings.model_copy(update={"jobs": jobs})
    folder = Path(output or f"runs/{name}")
    console = Console(quiet=not progress)
    return run_comparison(settings, folder, console, retry_failed=retry_failed)


def tune(
    config: StudyConfig | Mapping[str, Any] | Path | str,
    output: Path | str | None = None,
    *,
    overrides: tuple[str, ...] = (),
    progress: bool = False,
) -> Tuned:
    """Searches a run's settings by trials and reports; continues an existing folder.

    Unless the config says ``execution: {kind: inline}``, every trial has a process of its own,
    which imports the calling script again: keep the call below ``if __name__ == "__main__":``
    there.

    Args:
        config: A config, its content as a mapping, or the path of its YAML file.
        output: The folder; default: ``runs/`` and the study's name.
        overrides: ``section.key=value`` strings, for a mapping or a file.
        progress: Print a line for each trial.

    Raises:
        PemlError: Something is wrong with config, data, model, folder or storage, or the first
            trials all failed. A later trial that fails is recorded and the others continue.
    """
    from rich.console import Console

    from peml.config.loading import apply_overrides
    from peml.tuning.pipeline import tune as run_study
    from peml.tuning.settings import StudyConfig, load_study, parse_study

    if isinstance(config, (str, Path)):
        settings = load_study(Path(config), overrides)
    elif isinstance(config, StudyConfig):
        settings = config
    else:
        settings = parse_study({"name": "study", **apply_overrides(config, overrides)})
    folder = Path(output or f"runs/{settings.name}")
    return run_study(settings, folder, Console(quiet=not progress))
