"""The difference of two runs on the same rows."""

from dataclasses import asdict

from rich.console import Console

from peml.analysis.pairing import Contrast, RunContrast, TaskContrast, contrast_runs
from peml.cli.evaluate.numbers import Content, about, number, spread, tell_ways
from peml.errors import DataError
from peml.run.finished import FinishedRun, differing_rows
from peml.terminal import Column, print_table

_COLUMNS = [
    Column("task"),
    Column("metric", drop=2),
    Column("first", right=True, drop=1),
    Column("second", right=True, drop=1),
    *(Column(heading, right=True) for heading in ("diff.", "95 % interval", "p")),
]
_LEAST_P = 0.001  # as is printed; the JSON file has the number


def show_contrast(
    first: FinishedRun, second: FinishedRun, resamples: int, console: Console
) -> Content:
    """Prints two runs' differences as a table, and returns them for JSON."""
    found = contrast_runs(first.predictions, second.predictions, resamples=resamples)
    if differing := differing_rows(first, second):
        raise DataError(
            f"{', '.join(differing)}: the runs were not scored on the same rows: the texts differ",
            allowed="two runs scored on the same rows, in the same order",
            action="train both with the same data, or compare other tasks with --task",
        )

    def row(name: str, metric: str, contrast: Contrast) -> list[str]:
        sides = (number(contrast.first), number(contrast.second))
        difference = spread(contrast.difference, "+.3f")
        p_value = "<.001" if contrast.p_value < _LEAST_P else number(contrast.p_value)
        return [name, metric, *sides, *difference, p_value]

    rows = [row(name, task.metric, task) for name, task in found.tasks.items()]
    title = f"{first.folder} (first) and {second.folder} (second)"
    print_table(console, _COLUMNS, [*rows, [], row("mean", "", found.mean)], title=title)
    console.print(_tests(found))
    ways = tell_ways(first, [second], console)
    return {"second": about(second), "resamples": resamples, "differing": ways, **asdict(found)}


def _tests(found: RunContrast) -> str:
    """Names the test behind each p-value."""
    named: dict[str, list[str]] = {}
    contrasts: dict[str, TaskContrast | Contrast] = {**found.tasks, "mean": found.mean}
    for name, contrast in contrasts.items():
        named.setdefault(contrast.test, []).append(name)
    tests = "; ".join(f"{test} ({', '.join(names)})" for test, names in named.items())
    return f"p: {tests}; two-sided, not corrected for the number of tasks"
