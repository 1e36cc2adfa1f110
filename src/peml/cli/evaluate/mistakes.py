"""The rows a run predicted wrong, with their texts."""

from typing import Any

from rich.console import Console

from peml.analysis.mistakes import Mistake, find_mistakes
from peml.cli.evaluate.numbers import Content, number
from peml.errors import PemlError
from peml.evaluation import TaskPredictions
from peml.run.finished import FinishedRun, RowText, read_texts


def show_mistakes(run: FinishedRun, limit: int, console: Console) -> Content:
    """Prints the worst rows of each task, and returns them for JSON."""
    tasks = {}
    for name, kept in run.predictions.items():
        found = find_mistakes(kept)
        shown = found[:limit]
        texts, note = _texts(run, kept, shown)
        wrong = "not exact" if kept.task.type.has_scale else "wrong"
        said = f"{name}: {len(found):,} of {len(kept.rows):,} {kept.task.split} rows are {wrong}"
        console.print(said, style="bold")
        if note:
            console.print(note, style="yellow", soft_wrap=True)
        errors = [_mistake_content(kept, each, texts.get(each.row)) for each in shown]
        for error in errors:
            _print_mistake(error, console)
        rows = {"rows": len(kept.rows), "wrong": len(found), "split": kept.task.split}
        tasks[name] = {**rows, "note": note, "errors": errors}
    return {"tasks": tasks}


def _texts(
    run: FinishedRun, kept: TaskPredictions, shown: list[Mistake]
) -> tuple[dict[int, RowText], str]:
    """The rows' texts; a note instead if the data can't be read any more."""
    try:
        return read_texts(run.folder, kept, [mistake.row for mistake in shown]), ""
    except PemlError as error:
        return {}, f"the rows' texts can't be shown: {error.problem}"


def _mistake_content(kept: TaskPredictions, mistake: Mistake, text: RowText | None) -> Content:
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
        number(value, "g") if isinstance(value, float) else repr(value)
        for value in (error["predicted"], error["gold"])
    )
    lines = [
        f"row {error['row']}: predicted {said}, right is {right} "
        f"(margin {number(error['margin'])})",
        *(f"  {column}: {value}" for column, value in (error["inputs"] or {}).items()),
        *(f"  option {number}: {value}" for number, value in enumerate(error["options"])),
    ]
    console.print("\n".join(lines), soft_wrap=True)
