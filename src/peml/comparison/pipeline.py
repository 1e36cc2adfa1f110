"""`peml compare`: plan, grid, cells, report; can be killed and called again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from peml.comparison.cells import Cell, ComparisonFolder, cells_of
from peml.comparison.choices import choose_values, forget_failed_trials
from peml.comparison.collect import collect
from peml.comparison.latency import drop_models, measure_latency
from peml.comparison.matching import Matching
from peml.comparison.planning import check_identities, plan_comparison, print_plan
from peml.comparison.settings import ComparisonConfig
from peml.comparison.studies import run_studies
from peml.execution.executor import Executor, run_jobs
from peml.execution.making import make_executor
from peml.records.comparison import CellRecord, ComparisonRecord
from peml.reporting.comparison.page import write_comparison_report


@dataclass(frozen=True)
class Comparison:
    """A comparison that has ended.

    ``report.html``, ``tables/`` and ``figures/`` are in `folder`; `record` has the results of its
    cells.
    """

    folder: Path
    record: ComparisonRecord

    @property
    def unfinished(self) -> list[CellRecord]:
        """The cells that failed or didn't run."""
        return [
            cell
            for suite in self.record.suites
            for row in suite.rows
            for cell in row.cells
            if cell.status != "finished"
        ]


def plan(config: ComparisonConfig, output: Path, console: Console) -> None:
    """Shows the planned runs without writing anything (``--dry-run``)."""
    folder = ComparisonFolder(output)
    matching = _matching(folder, config) or plan_comparison(config)
    print_plan(config, matching, console)


def compare(
    config: ComparisonConfig,
    output: Path,
    console: Console | None = None,
    *,
    retry_failed: bool = False,
    report_only: bool = False,
) -> Comparison:
    """Runs all cells that haven't run yet, and writes the report.

    A comparison that is in `output` already is continued, even if seeds were added to the config.
    `retry_failed`: run the cells that failed again. `report_only`: run nothing; report the finished
    cells and list the others.

    Raises:
        PemlError: Something is wrong with config, data, model or folder. A cell that fails is
            recorded instead.
    """
    console = console or Console(quiet=True)
    folder = ComparisonFolder(output)
    with folder.locked():
        matching = _matching(folder, config)
        if matching is None:
            matching = plan_comparison(config)
            folder.create(config, matching)
        elif not report_only:
            is_open = _is_open(config, matching, output, retry_failed=retry_failed)
            check_identities(config, matching, output, is_open=is_open)
        print_plan(config, matching, console)
        if not report_only:
            folder.keep(config)
            _run(config, matching, folder, console, retry_failed=retry_failed)
        choices = choose_values(config, output, matching.settings)
        record = collect(config, matching, choices, output)
        record.write(output)
        write_comparison_report(output)
    return Comparison(output, record)


def _matching(folder: ComparisonFolder, config: ComparisonConfig) -> Matching | None:
    return Matching.read(folder.path) if folder.holds(config) else None


def _is_open(
    config: ComparisonConfig, matching: Matching, folder: Path, *, retry_failed: bool
) -> bool:
    cells = cells_of(config, folder, matching.settings)
    return any(not cell.is_finished and (retry_failed or not cell.failure()) for cell in cells)


def _run(
    config: ComparisonConfig,
    matching: Matching,
    folder: ComparisonFolder,
    console: Console,
    *,
    retry_failed: bool,
) -> None:
    settings = matching.settings
    every = cells_of(config, folder.path, matching.settings)
    if retry_failed:
        _forget_failures(config, matching, folder.path, every)
    with make_executor(config.executor()) as executor:
        run_studies(config, folder.path, matching, executor, console)
        chosen = _chosen(config, matching, folder.path, every)
        cells = cells_of(config, folder.path, settings, chosen)
        _run_all(executor, cells, console)
    measure_latency(cells, folder.path, console)
    if not config.keep_models and all(cell.is_finished or cell.failure() for cell in cells):
        drop_models(cells)


def _chosen(
    config: ComparisonConfig, matching: Matching, folder: Path, cells: Sequence[Cell]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The tuned values by suite and label; if all tuning of a method failed, so do its cells."""
    chosen = {}
    for place, choice in choose_values(config, folder, matching.settings).items():
        if choice.factor is not None:
            chosen[place] = choice.chosen
            continue
        for cell in cells:
            if cell.place == place and not cell.is_finished:
                cell.fail(choice.reason)
    return chosen


def _forget_failures(
    config: ComparisonConfig, matching: Matching, folder: Path, cells: Sequence[Cell]
) -> None:
    """Lets failed runs run again, except those of a grid whose choice is already in use."""
    begun = {cell.place for cell in cells if cell.folder.exists()}
    forget_failed_trials(config, folder, matching.settings, begun)
    for cell in cells:
        cell.record.unlink(missing_ok=True)
        cell.log.unlink(missing_ok=True)


def _run_all(executor: Executor, cells: Sequence[Cell], console: Console) -> None:
    """Runs the cells that have neither finished nor failed; prints a line per start and end."""
    waiting = [cell for cell in cells if not cell.is_finished and cell.failure() is None]
    done = len(cells) - len(waiting)
    if done:
        console.print(f"{done} of {len(cells)} cells have run already", highlight=False)
    since: dict[Path, float] = {}

    def started(cell: Cell) -> None:
        since[cell.folder] = time.monotonic()
        console.print(f"started  {cell.name}", highlight=False, markup=False)

    def ended(cell: Cell) -> None:
        nonlocal done
        done += 1
        seconds = time.monotonic() - since[cell.folder]
        count, results = f"({done}/{len(cells)})", cell.results()
        if results is None:
            line = f"FAILED   {cell.name}: {cell.failure()} {count}"
        else:
            line = f"finished {cell.name}: mean {results.mean:.4f}, {seconds:.0f} s {count}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    run_jobs(executor, waiting, started, ended)
