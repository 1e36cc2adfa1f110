"""Several runs' means in one table."""

from collections.abc import Sequence

from rich.console import Console

from peml.analysis.scores import score_run
from peml.cli.evaluate.numbers import Content, about, number, spread, tell_ways
from peml.cli.evaluate.scores import scores_content
from peml.run.finished import FinishedRun, differing_rows
from peml.terminal import Column, print_table

_COLUMNS = [
    Column("run", fold=True),
    Column("method"),
    Column("seed", drop=2),
    Column("mean", right=True),
    Column("95 % interval", right=True),
    Column("majority", right=True, drop=1),
    Column("tasks", right=True, drop=3),
    Column("rows", right=True, drop=4),
]
_NOTE = "these runs were not scored in the same way on the same rows: their means can't be compared"


def show_runs(runs: Sequence[FinishedRun], resamples: int, console: Console) -> Content:
    """Prints the mean of each run as a table; returns all scores of all of them for JSON."""
    table, found = [], []
    for run in runs:
        scores = score_run(run.predictions, resamples=resamples)
        rows = sum(task.rows for task in scores.tasks.values())
        table.append(
            [
                str(run.folder),
                run.results.method,
                str(run.results.seed),
                *spread(scores.overall.mean),
                number(scores.overall.majority_mean),
                f"{len(scores.tasks):,}",
                f"{rows:,}",
            ]
        )
        found.append({**about(run), **scores_content(scores)})
    print_table(console, _COLUMNS, table, title=f"{len(runs)} runs")
    first = runs[0]
    same_rows = all(
        _scored(run) == _scored(first) and not differing_rows(first, run) for run in runs[1:]
    )
    if not same_rows:
        console.print(_NOTE, style="yellow", soft_wrap=True)
    ways = tell_ways(first, runs[1:], console)
    return {"resamples": resamples, "same_rows": same_rows, "differing": ways, "runs": found}


def _scored(run: FinishedRun) -> dict[str, Content]:
    """What must be equal for two means to be comparable: rows, answers, metric, version."""
    return {
        name: {
            "version": kept.task.version,
            "split": kept.task.split,
            "metric": kept.task.metrics[0],
            "average": kept.task.average,
            "answers": list(zip(kept.rows, kept.gold, strict=True)),
        }
        for name, kept in run.predictions.items()
    }
