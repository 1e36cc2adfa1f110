"""One run's metrics with their intervals and baselines."""

from dataclasses import asdict

from rich.console import Console

from peml.analysis.scores import GroupScores, RunScores, score_run
from peml.cli.evaluate.numbers import Content, number, spread
from peml.reporting.summary import MAJORITY_NOTE
from peml.run.finished import FinishedRun
from peml.terminal import Column, print_table

_COLUMNS = [
    Column("task"),
    Column("metric"),
    Column("value", right=True),
    Column("95 % interval", right=True),
    Column("majority", right=True, drop=1),
    Column("rows", right=True, drop=2),
]
_MARKS = {"train": "", "reported": "*"}


def show_scores(run: FinishedRun, resamples: int, console: Console) -> Content:
    """Prints a run's scores as a table, and returns them for JSON."""
    scores = score_run(run.predictions, resamples=resamples)
    results = run.results
    table: list[list[str]] = []
    for name, task in scores.tasks.items():
        for metric, interval in task.metrics.items():
            headline = metric == task.task.metrics[0]
            majority = number(task.majority[metric]) + _MARKS[task.task.majority_of]
            rows = f"{task.rows:,}" if headline else ""
            table.append([name if headline else "", metric, *spread(interval), majority, rows])
    table.append([])
    table += [_means_row(group, means) for group, means in scores.groups.items()]
    table.append(_means_row("mean", scores.overall))
    title = f"{results.method} on {results.model}, seed {results.seed}"
    print_table(console, _COLUMNS, table, title=title)
    if any(task.task.majority_of == "reported" for task in scores.tasks.values()):
        console.print(f"* {MAJORITY_NOTE}")
    return {"resamples": resamples, **scores_content(scores)}


def _means_row(name: str, means: GroupScores) -> list[str]:
    over = f"over {len(means.names)} tasks" if means.average == "tasks" else "over rows"
    return [name, over, *spread(means.mean), number(means.majority_mean), ""]


def scores_content(scores: RunScores) -> Content:
    """A run's scores, for JSON."""
    tasks = {
        name: {
            "headline": task.task.metrics[0],
            "split": task.task.split,
            "majority_of": task.task.majority_of,
            "rows": task.rows,
            "metrics": {
                metric: {**asdict(interval), "majority": task.majority[metric]}
                for metric, interval in task.metrics.items()
            },
        }
        for name, task in scores.tasks.items()
    }
    groups = {
        name: _means_content(means) | {"tasks": means.names}
        for name, means in scores.groups.items()
    }
    return {
        "average": scores.overall.average,
        "mean": _means_content(scores.overall),
        "groups": groups,
        "tasks": tasks,
    }


def _means_content(means: GroupScores) -> Content:
    return {**asdict(means.mean), "majority": means.majority_mean}
