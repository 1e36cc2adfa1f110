"""The cells of a comparison, and the folder they live in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.comparison.matching import Matching
from peml.comparison.settings import ComparisonConfig, Place, load_comparison
from peml.config import dump_shared, without_grants
from peml.execution import Job
from peml.files import write_text
from peml.methods import MethodSettings
from peml.run import WorkFolder, differences
from peml.tuning import apply_values

_CONFIG = "comparison.yaml"

Matched = Mapping[str, Mapping[str, MethodSettings]]
"""Settings of each method, by suite and label."""


@dataclass(frozen=True)
class Cell(Job):
    """One run of a comparison.

    `suite` is the label of its tasks, `label` that of its method.
    """

    suite: str
    label: str
    seed: int

    @property
    def place(self) -> Place:
        """Where it stands in the comparison."""
        return self.suite, self.label


class ComparisonFolder(WorkFolder[ComparisonConfig]):
    """A comparison's files."""

    noun, command = "comparison folder", "peml compare"
    held = "another comparison"
    unchanged = "the config the comparison was started with, and seeds added to it"
    config_file, before_config = _CONFIG, Matching.FILE

    def _changed(self, config: ComparisonConfig) -> str:
        # Where its runs execute, and how many at a time, does not make it another comparison, nor
        # do further seeds.
        before = load_comparison(self.path / _CONFIG)
        ignored = {"jobs", "execution"}
        if config.seeds[: len(before.seeds)] == before.seeds:
            ignored.add("seeds")
        dumped = (one.model_dump(mode="json", exclude=ignored) for one in (before, config))
        return differences(*map(without_grants, dumped))

    def create(self, config: ComparisonConfig, matching: Matching) -> None:
        """Makes the folder of a comparison that starts."""
        matching.write(self.path)
        self.keep(config)  # last: it makes it a comparison

    def keep(self, config: ComparisonConfig) -> None:
        """Writes the config, at the start and where seeds were added."""
        write_text(self.path / _CONFIG, dump_shared(config))


def cells_of(
    config: ComparisonConfig,
    folder: Path,
    matched: Matched,
    chosen: Mapping[Place, Mapping[str, Any]] | None = None,
) -> list[Cell]:
    """Every suite, method and seed, the first seed of all methods first.

    `chosen` has values by path into the run config; a method that it leaves out has no cells yet.
    Without it nothing is chosen, and all have.
    """
    values = {place: {} for place in config.places} if chosen is None else chosen
    return [
        Cell(
            name=f"{suite}, {label}, seed{seed}",
            folder=folder / "cells" / suite / f"{label}-seed{seed}",
            config=apply_values(
                config.run_config(suite, matched[suite][label], seed), values[suite, label]
            ),
            suite=suite,
            label=label,
            seed=seed,
        )
        for seed in config.seeds
        for suite, label in config.places
        if (suite, label) in values
    ]
