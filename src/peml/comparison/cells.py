"""The cells of a comparison, and the folder they live in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.comparison.settings import ComparisonConfig, load_comparison
from peml.config import RunConfig, dump_config
from peml.errors import RunError
from peml.files import read_json, write_json, write_text
from peml.methods import MethodSettings
from peml.run import RunFolder, differences, lock_folder

__all__ = ["Cell", "ComparisonFolder", "cells_of", "grid_of"]

_CONFIG = "comparison.yaml"
_MATCHING = "matching.json"

Matched = Mapping[str, Mapping[str, MethodSettings]]
"""Settings of each method, by suite and label."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        suite: Label of its tasks.
        label: Label of its method.
        key: Its seed, or its factor in the learning-rate grid.
        folder: The run folder.
        config: The run's config.
    """

    suite: str
    label: str
    key: float
    folder: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """What it is called in messages."""
        what = self.folder.name.removeprefix(f"{self.label}-").replace("-", " ")
        return f"{self.suite}, {self.label}, {what}"

    @property
    def record(self) -> Path:
        """Where a failure is written down."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """What its process printed; removed when it ends well."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return RunFolder(self.folder).is_finished

    def results(self) -> dict[str, Any] | None:
        """``results.json`` of a finished run."""
        return RunFolder(self.folder).read("results.json") if self.is_finished else None

    def failure(self) -> str | None:
        """Why the run failed, if it did."""
        if self.is_finished or not self.record.is_file():
            return None
        return str(read_json(self.record)["reason"])

    def fail(self, reason: str) -> None:
        """Writes down that the run failed."""
        write_json(self.record, {"status": "failed", "reason": reason})


class ComparisonFolder:
    """A comparison's files.

    Args:
        path: The folder; made by `create`, not here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def matching(self) -> Path:
        """What size was chosen for each method."""
        return self.path / _MATCHING

    def holds(self, config: ComparisonConfig) -> bool:
        """Whether this comparison was started here; False for a new or empty folder.

        Raises:
            RunError: The folder holds something else, or another comparison.
        """
        existing = self.path / _CONFIG
        if existing.is_file():
            # How many runs share the machine does not make it another comparison.
            old, new = (
                one.model_dump(mode="json", exclude={"jobs"})
                for one in (load_comparison(existing), config)
            )
            changed = differences(old, new)
            if changed:
                raise RunError(
                    f"{self.path} holds another comparison: {changed}",
                    allowed="the config the comparison was started with",
                    action="choose another --output, or undo the change; nothing was changed",
                )
            return True
        own = {_MATCHING, f".{_MATCHING}.partial", f".{_CONFIG}.partial"}
        if self.path.exists() and not (
            self.path.is_dir() and all(file.name in own for file in self.path.iterdir())
        ):
            raise RunError(
                f"{self.path} exists and is no comparison folder",
                allowed="a new folder, or one that an earlier `peml compare` made",
                action="choose another --output; nothing was changed",
            )
        return False

    def create(self, config: ComparisonConfig, matching: dict[str, Any]) -> None:
        """Makes the folder of a comparison that starts."""
        write_json(self.matching, matching)
        write_text(self.path / _CONFIG, dump_config(config))  # last: it makes it a comparison

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes out while this one works."""
        return lock_folder(self.path)


def cells_of(
    config: ComparisonConfig,
    folder: Path,
    matched: Matched,
    factors: Mapping[tuple[str, str], float],
) -> list[Cell]:
    """Every suite, method and seed, the first seed of all methods first.

    Args:
        config: What is compared.
        folder: The comparison's folder.
        matched: Settings of each method, by suite and label.
        factors: Learning-rate factor, by suite and label; a method left out has no cells yet.
    """
    return [
        Cell(
            suite,
            label,
            seed,
            folder / "cells" / suite / f"{label}-seed{seed}",
            _with(
                config.run_config(suite, matched[suite][label], seed),
                training={"learning_rate_factor": factors[suite, label]},
            ),
        )
        for seed in config.seeds
        for suite in config.suites
        for label in config.methods
        if (suite, label) in factors
    ]


def grid_of(config: ComparisonConfig, folder: Path, matched: Matched) -> list[Cell]:
    """The runs of the learning-rate grid; none where there is nothing to choose from."""
    tuning = config.tuning
    if tuning is None or len(tuning.factors) == 1:
        return []
    return [
        Cell(
            suite,
            label,
            factor,
            folder / "tuning" / suite / label / f"factor-{factor:g}",
            _with(
                config.run_config(suite, matched[suite][label], tuning.seed),
                training={"learning_rate_factor": factor, "epochs": tuning.epochs},
                evaluation={"split": "development", "ablations": False},
                export=False,
            ),
        )
        for suite in config.suites
        for label in config.methods
        for factor in tuning.factors
    ]


def _with(config: RunConfig, *, export: bool = True, **sections: dict[str, Any]) -> RunConfig:
    changed = {
        name: getattr(config, name).model_copy(update=values) for name, values in sections.items()
    }
    return config.model_copy(update={**changed, "export": export})
