"""Several runs' means in one table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peml.cli.evaluate.figures import Content, about, number, spread
from peml.cli.evaluate.scores import scores_content
from peml.evaluation import score_run
from peml.run import FinishedRun

__all__ = ["show_runs"]

_NOTE = "these runs were not scored in the same way on the same rows: their means don't compare"


def show_runs(runs: Sequence[FinishedRun], resamples: int, console: Console) -> Content:
    """Prints the mean of each run as a table; returns all scores of all of them for JSON."""
    table = Table(title=f"{len(runs)} runs")
    for heading in ("run", "method", "seed"):
        table.add_column(heading, overflow="fold")
    for heading in ("mean", "95 % interval", "majority", "tasks", "rows"):
        table.add_column(heading, justify="right")
    found = []
    for run in runs:
        scores = score_run(run.predictions, resamples=resamples)
        rows = sum(task.rows for task in scores.tasks.values())
        table.add_row(
            escape(str(run.folder)),
            run.results.method,
            str(run.results.seed),
            *spread(scores.overall.mean),
            number(scores.overall.majority_mean),
            f"{len(scores.tasks):,}",
            f"{rows:,}",
        )
        found.append({**about(run), **scores_content(scores)})
    console.print(table)
    same_rows = all(_scored(run) == _scored(runs[0]) for run in runs)
    if not same_rows:
        console.print(_NOTE, style="yellow", highlight=False, soft_wrap=True)
    return {"resamples": resamples, "same_rows": same_rows, "runs": found}


def _scored(run: FinishedRun) -> dict[str, Content]:
    """What makes two runs' means comparable: rows, right answers, metric and share of each task."""
    return {
        name: {
            "split": kept.task.split,
            "metric": kept.task.metrics[0],
            "average": kept.task.average,
            "answers": list(zip(kept.rows, kept.gold, strict=True)),
        }
        for name, kept in run.predictions.items()
    }
