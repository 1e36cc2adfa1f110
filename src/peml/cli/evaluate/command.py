"""The command's arguments, and the choice among its four views."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from peml.cli.sparing import quick_imports
from peml.errors import RunError
from peml.files import refuse_sealed, write_json
from peml.terminal import open_console, print_warnings

_LIMIT = 10
_RESAMPLES = 2000


def evaluate_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, any number.", metavar="RUN...")],
    paired: Annotated[
        bool, typer.Option("--paired", help="Test the difference of two runs on the same rows.")
    ] = False,
    errors: Annotated[
        bool, typer.Option("--errors", help="Show the rows predicted wrong, the worst first.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Only this task; default: all.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Rows per task with --errors; default: {_LIMIT}.")
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(min=100, help=f"Bootstrap and permutation draws; default: {_RESAMPLES:,}."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the output to this file, as JSON.")
    ] = None,
) -> None:
    """Score finished runs from their stored predictions: intervals, paired tests, mistakes.

    Nothing is trained or predicted, and run folders don't change.
    Intervals and p-values cover the randomness of the rows, not of the seeds.

    Examples:
      peml evaluate runs/demo
      peml evaluate runs/glue/cells/glue/*
      peml evaluate runs/demo runs/lora --paired
      peml evaluate runs/demo --errors --task reviews --limit 5
      peml evaluate runs/demo --json scores.json
    """
    with quick_imports():
        from peml.cli.evaluate.contrast import show_contrast
        from peml.cli.evaluate.mistakes import show_mistakes
        from peml.cli.evaluate.numbers import about, finite
        from peml.cli.evaluate.runs import show_runs
        from peml.cli.evaluate.scores import show_scores
        from peml.run.finished import load_finished

    if json_file is not None:
        refuse_sealed(json_file)
        _refuse_folder(json_file)
    _check_use(len(runs), paired=paired, errors=errors, limit=limit, resamples=resamples)
    console = open_console()
    first, *others = (load_finished(run, task) for run in runs)
    draws = resamples or _RESAMPLES
    content = {"format": 1, "run": about(first)}
    if errors:
        content |= show_mistakes(first, limit or _LIMIT, console)
    elif paired:
        content |= show_contrast(first, others[0], draws, console)
    elif others:
        content = {"format": 1, **show_runs([first, *others], draws, console)}
    else:
        content |= show_scores(first, draws, console)
    _tell(runs, task, content, console)
    if json_file is not None:
        write_json(json_file, finite(content))
        console.print(f"JSON: {json_file}", soft_wrap=True)


def _tell(runs: list[Path], task: str | None, content: dict[str, Any], console: Console) -> None:
    """Prints cautions about the rows that each run was trained and scored on."""
    from peml.records.plan import Plan
    from peml.reporting.cautions import tell_cautions

    content["cautions"] = {str(run): tell_cautions(Plan.read(run), task) for run in runs}
    for run, texts in content["cautions"].items():
        print_warnings([f"{run}: {text}" if len(runs) > 1 else text for text in texts], console)


def _refuse_folder(json_file: Path) -> None:
    if json_file.is_dir():
        raise RunError(
            f"--json {json_file} is a folder",
            allowed="a new JSON file, or an old one to replace",
            action=f"name a file, such as {json_file / 'scores.json'}",
        )


def _check_use(
    runs: int, *, paired: bool, errors: bool, limit: int | None, resamples: int | None
) -> None:
    """Refuses options that don't go together, so that none is ignored."""
    cases = {
        "--paired with one run": paired and runs == 1,
        f"--paired with {runs} runs": paired and runs > 2,
        f"--errors with {runs} runs": errors and runs > 1,
        "--paired with --errors": paired and errors,
        "--limit without --errors": limit is not None and not errors,
        "--resamples with --errors": resamples is not None and errors,
    }
    problems = [case for case, is_so in cases.items() if is_so]
    if problems:
        raise RunError(
            f"these don't go together: {'; '.join(problems)}",
            allowed="RUN..., or RUN --errors, or RUN RUN2 --paired; each with --task NAME",
            action="see `peml evaluate --help`",
        )
