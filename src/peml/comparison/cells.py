"""The cells of a comparison, and its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.comparison.matching import Matching
from peml.comparison.settings import ComparisonConfig, Place, load_comparison
from peml.config.grants import dump_shared, without_grants
from peml.execution.job import Job
from peml.files import write_text
from peml.methods.base import MethodSettings
from peml.run.work_folder import WorkFolder, differences
from peml.tuning.space import apply_values

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
        """The labels of its suite and method."""
        return self.suite, self.label


class ComparisonFolder(WorkFolder[ComparisonConfig]):
    """The files of a comparison."""

    noun, command = "comparison folder", "peml compare"
    held = "another comparison"
    unchanged = "the config the comparison was started with, and seeds added to it"
    config_file, before_config = _CONFIG, Matching.FILE
    free = ("run.model.name", "run.tasks", "suites", "seeds", "jobs", "execution", "keep_models")

    def _changed(self, config: ComparisonConfig) -> str:
        # Other seeds, another place or number of parallel runs, and which models are kept don't
        # make it another comparison.
        before = load_comparison(self.path / _CONFIG)
        ignored = {"jobs", "execution", "keep_models"}
        if config.seeds[: len(before.seeds)] == before.seeds:
            ignored.add("seeds")
        dumped = (one.model_dump(mode="json", exclude=ignored) for one in (before, config))
        return differences(*map(without_grants, dumped))

    def _begun_with(self) -> dict[str, Any]:
        return Matching.read(self.path).config

    def create(self, config: ComparisonConfig, matching: Matching) -> None:
        """Makes the folder of a new comparison."""
        shared = self.fixed(without_grants(config.model_dump(mode="json")))
        matching.model_copy(update={"config": shared}).write(self.path)
        self.keep(config)  # last: it makes it a comparison

    def keep(self, config: ComparisonConfig) -> None:
        """Writes the config, at the start and after seeds were added."""
        write_text(self.path / _CONFIG, dump_shared(config))


def cells_of(
    config: ComparisonConfig,
    folder: Path,
    matched: Matched,
    chosen: Mapping[Place, Mapping[str, Any]] | None = None,
) -> list[Cell]:
    """The cells of every suite, method and seed; those of the first seed come first.

    `chosen` has values by path into the run config; a method without an entry has no cells yet.
    Without `chosen`, all methods have cells, with no tuned values. If not all models are kept,
    only those whose latency is measured are saved: the first seed's.
    """
    values = {place: {} for place in config.places} if chosen is None else chosen
    return [
        Cell(
            name=f"{suite}, {label}, seed{seed}",
            folder=folder / "cells" / suite / f"{label}-seed{seed}",
            config=apply_values(
                config.run_config(suite, matched[suite][label], seed), values[suite, label]
            ).model_copy(update={"export": seed == config.seeds[0] or config.keep_models is True}),
            suite=suite,
            label=label,
            seed=seed,
        )
        for seed in config.seeds
        for suite, label in config.places
        if (suite, label) in values
    ]
