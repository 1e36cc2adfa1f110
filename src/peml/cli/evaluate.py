"""`peml evaluate`: what finished runs' predictions say, with intervals, tests and mistakes."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peml.errors import PemlError, RunError
from peml.evaluation import (
    Contrast,
    Interval,
    KeptPredictions,
    Mistake,
    RunContrast,
    RunScores,
    TaskContrast,
    contrast_runs,
    find_mistakes,
    score_run,
)
from peml.files import write_json
from peml.run import FinishedRun, RowText, load_finished, read_texts
from peml.tasks import TaskType

__all__ = ["evaluate_command"]

_LEAST_P = 0.001  # as is printed; the JSON file has the number
_LIMIT = 10
_RESAMPLES = 2000

Content = dict[str, Any]


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    other: Annotated[
        Path | None, typer.Argument(help="Second run folder, with --paired.", metavar="RUN2")
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="Test the difference of two runs on the same rows.")
    ] = False,
    errors: Annotated[
        bool, typer.Option("--errors", help="Show the rows predicted wrong, the worst first.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Only this task; default: all.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Rows a task with --errors; default: {_LIMIT}.")
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=100, help=f"Draws of bootstrap and permutations; default: {_RESAMPLES:,}."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what is shown as JSON to this file too.")
    ] = None,
) -> None:
    """Score finished runs again from their predictions: intervals, paired tests, mistakes.

    Nothing is trained or predicted, and run folders are left as they are.
    Intervals and p-values tell the chance in the rows, not in the seeds.

    Examples:
      peml evaluate runs/demo
      peml evaluate runs/demo runs/lora --paired
      peml evaluate runs/demo --errors --task reviews --limit 5
      peml evaluate runs/demo --json scores.json
    """
    _check_use(other, paired=paired, errors=errors, limit=limit, resamples=resamples)
    console = Console()
    first = load_finished(run, task)
    draws = resamples or _RESAMPLES
    if errors:
        content = _show_mistakes(first, limit or _LIMIT, console)
    elif other is not None:
        content = _show_contrast(first, load_finished(other, task), draws, console)
    else:
        content = _show_scores(first, draws, console)
    if json_file is not None:
        write_json(json_file, _finite({"format": 1, "run": _about(first), **content}))
        console.print(f"JSON: {json_file}", highlight=False, markup=False, soft_wrap=True)


def _check_use(
    other: Path | None, *, paired: bool, errors: bool, limit: int | None, resamples: int | None
) -> None:
    """Refuses options that don't go together; nothing that was given is ignored."""
    cases = {
        "--paired with one run": paired and other is None,
        "two runs without --paired": other is not None and not paired,
        "--paired with --errors": paired and errors,
        "--limit without --errors": limit is not None and not errors,
        "--resamples with --errors": resamples is not None and errors,
    }
    problems = [case for case, is_so in cases.items() if is_so]
    if problems:
        raise RunError(
            f"these don't go together: {'; '.join(problems)}",
            allowed="RUN, or RUN --errors, or RUN RUN2 --paired; each with --task NAME",
            action="see `peml evaluate --help`",
        )


def _about(run: FinishedRun) -> Content:
    results = run.results
    return {
        "folder": str(run.folder),
        "method": results.method,
        "model": results.model,
        "seed": results.seed,
    }


def _show_scores(run: FinishedRun, resamples: int, console: Console) -> Content:
    scores = score_run(run.predictions, resamples=resamples)
    results = run.results
    table = Table(title=escape(f"{results.method} on {results.model}, seed {results.seed}"))
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("value", "95 % interval", "majority", "rows"):
        table.add_column(heading, justify="right")
    for name, task in scores.tasks.items():
        for metric, interval in task.metrics.items():
            headline = metric == task.task.metrics[0]
            majority = _number(task.majority[metric])
            rows = f"{task.rows:,}" if headline else ""
            table.add_row(name if headline else "", metric, *_spread(interval), majority, rows)
    table.add_section()
    table.add_row("mean", "", *_spread(scores.mean), _number(scores.majority_mean))
    console.print(table)
    return {"resamples": resamples, **_scores_content(scores)}


def _scores_content(scores: RunScores) -> Content:
    tasks = {
        name: {
            "headline": task.task.metrics[0],
            "split": task.task.split,
            "rows": task.rows,
            "metrics": {
                metric: {**asdict(interval), "majority": task.majority[metric]}
                for metric, interval in task.metrics.items()
            },
        }
        for name, task in scores.tasks.items()
    }
    return {"mean": {**asdict(scores.mean), "majority": scores.majority_mean}, "tasks": tasks}


def _show_contrast(
    first: FinishedRun, second: FinishedRun, resamples: int, console: Console
) -> Content:
    found = contrast_runs(first.predictions, second.predictions, resamples=resamples)
    table = Table(title=escape(f"{first.folder} (first) and {second.folder} (second)"))
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("first", "second", "diff.", "95 % interval", "p"):
        table.add_column(heading, justify="right")

    def add(name: str, metric: str, contrast: Contrast) -> None:
        sides = (_number(contrast.first), _number(contrast.second))
        difference = _spread(contrast.difference, "+.3f")
        p_value = "<.001" if contrast.p_value < _LEAST_P else _number(contrast.p_value)
        table.add_row(name, metric, *sides, *difference, p_value)

    for name, task in found.tasks.items():
        add(name, task.metric, task)
    table.add_section()
    add("mean", "", found.mean)
    console.print(table)
    console.print(_tests(found), highlight=False)
    return {"second": _about(second), "resamples": resamples, **asdict(found)}


def _tests(found: RunContrast) -> str:
    """Which test each p-value is from."""
    named: dict[str, list[str]] = {}
    contrasts: dict[str, TaskContrast | Contrast] = {**found.tasks, "mean": found.mean}
    for name, contrast in contrasts.items():
        named.setdefault(contrast.test, []).append(name)
    tests = "; ".join(f"{test} ({', '.join(names)})" for test, names in named.items())
    return f"p: {tests}; two-sided, not corrected for the number of tasks"


def _show_mistakes(run: FinishedRun, limit: int, console: Console) -> Content:
    tasks = {}
    for name, kept in run.predictions.items():
        found = find_mistakes(kept)
        shown = found[:limit]
        texts, note = _texts(run, kept, shown)
        wrong = "not exact" if kept.task.type is TaskType.REGRESSION else "wrong"
        said = f"{name}: {len(found):,} of {len(kept.rows):,} {kept.task.split} rows are {wrong}"
        console.print(said, style="bold", highlight=False, markup=False)
        if note:
            console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
        errors = [_mistake_content(kept, each, texts.get(each.row)) for each in shown]
        for error in errors:
            _print_mistake(error, console)
        rows = {"rows": len(kept.rows), "wrong": len(found), "split": kept.task.split}
        tasks[name] = {**rows, "note": note, "errors": errors}
    return {"tasks": tasks}


def _texts(
    run: FinishedRun, kept: KeptPredictions, shown: list[Mistake]
) -> tuple[dict[int, RowText], str]:
    """The rows' texts, or why there are none: the data may be gone, the row numbers are not."""
    try:
        return read_texts(run.folder, kept, [mistake.row for mistake in shown]), ""
    except PemlError as error:
        return {}, f"the rows' texts can't be shown: {error.problem}"


def _mistake_content(kept: KeptPredictions, mistake: Mistake, text: RowText | None) -> Content:
    options = text.options if text is not None else ()

    def spell(value: Any) -> Any:
        if isinstance(value, float):
            return value
        return options[value] if options and isinstance(value, int) else kept.task.spell(value)

    return {
        "row": mistake.row,
        "gold": spell(mistake.gold),
        "predicted": spell(mistake.predicted),
        "margin": mistake.margin,
        "inputs": None if text is None else text.inputs,
        "options": list(options),
    }


def _print_mistake(error: Content, console: Console) -> None:
    said, right = (
        _number(value, "g") if isinstance(value, float) else repr(value)
        for value in (error["predicted"], error["gold"])
    )
    lines = [
        f"row {error['row']}: predicted {said}, right is {right} "
        f"(margin {_number(error['margin'])})",
        *(f"  {column}: {value}" for column, value in (error["inputs"] or {}).items()),
        *(f"  option {number}: {value}" for number, value in enumerate(error["options"])),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _spread(interval: Interval, form: str = ".3f") -> tuple[str, str]:
    low, high = _number(interval.low, form), _number(interval.high, form)
    return _number(interval.value, form), f"{low} to {high}"


def _number(value: float, form: str = ".3f") -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
