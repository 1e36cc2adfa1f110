"""`peml compare`: methods x seeds x suites in one folder, at equal cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from peml.cli.options import AddressOption, ExecutorOption, JobsOption, OutputOption, SetOption
from peml.cli.sparing import quick_imports
from peml.terminal import Column, open_console, print_table, print_warnings

if TYPE_CHECKING:
    from peml.records.comparison import SuiteRecord


def compare_command(
    config: Annotated[Path, typer.Argument(help="Config file, such as examples/compare.yaml.")],
    overrides: SetOption = None,
    output: OutputOption = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Repeat the runs that failed.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing; report the finished runs.")
    ] = False,
) -> None:
    """Compare methods on the same tasks. In an existing folder, resume where it stopped.

    The exit code is 1 if a run failed or is missing.

    Examples:
      peml compare examples/compare.yaml
      peml compare examples/compare.yaml --set run.training.epochs=1 --jobs 4
      peml compare examples/compare.yaml --executor ray --address 10.0.0.1:6379 --jobs 16
      peml compare examples/compare.yaml --dry-run
    """
    from peml.comparison.settings import load_comparison

    options = {"jobs": jobs, "execution.kind": executor, "execution.address": address}
    given = [f"{place}={value}" for place, value in options.items() if value is not None]
    settings = load_comparison(config, [*(overrides or ()), *given])
    with quick_imports():
        from peml.comparison.cells import ComparisonFolder
        from peml.comparison.pipeline import compare, plan
        from peml.reporting.comparison.summary import describe_flags

    console = open_console()
    folder = output or ComparisonFolder.default(config)
    if dry_run:
        plan(settings, folder, console)
        return
    comparison = compare(settings, folder, console, retry_failed=retry_failed, report_only=report)
    for suite in comparison.record.suites:
        _print_suite(suite, console)
        print_warnings(describe_flags(suite), console)
    for cell in comparison.unfinished:
        line = f"{cell.status}: {cell.folder}: {cell.reason}".rstrip(": ")
        console.print(line, style="yellow", soft_wrap=True)
    console.print(f"\nReport: {folder / 'report.html'}", soft_wrap=True)
    if comparison.unfinished:
        raise typer.Exit(1)


def _print_suite(suite: SuiteRecord, console: Console) -> None:
    columns = [Column("method"), Column("mean", right=True)]
    columns += [Column("deviation", right=True, drop=3)]
    if suite.best_baseline is not None:
        columns += [Column(f"difference to {suite.best_baseline}", right=True, drop=1)]
        columns += [Column("95 % interval", right=True, drop=2)]
    rows = []
    for row in suite.rows:
        found, interval = row.difference, ("", "")
        if found is not None:
            interval = (f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}")
        shown = ("-" if value is None else f"{value:.4f}" for value in (row.mean, row.deviation))
        cells = [row.label + (" (!)" if row.flags else ""), *shown, *interval]
        rows.append(cells[: len(columns)])
    title = f"{suite.name}, mean over {len(suite.tasks)} tasks"
    print_table(console, columns, rows, title=title)
