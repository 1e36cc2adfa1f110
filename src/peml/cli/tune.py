"""`peml tune`: trials over a space, on one machine or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from peml.cli.options import AddressOption, ExecutorOption, JobsOption, OutputOption, SetOption
from peml.cli.sparing import quick_imports
from peml.terminal import Column, open_console, print_table

if TYPE_CHECKING:
    from peml.tuning.pipeline import Tuned
    from peml.tuning.settings import StudyConfig

_SHOWN = 5


def tune_command(
    config: Annotated[Path, typer.Argument(help="Config file, such as examples/tune-demo.yaml.")],
    overrides: SetOption = None,
    output: OutputOption = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, print the plan of one trial and stop."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing; report the trials so far.")
    ] = False,
) -> None:
    """Tune a run's settings. In an existing folder, resume where it stopped.

    Trials are judged on the development split. The best config is written as best.yaml, ready
    for `peml fit`. The exit code is 1 if no trial finished.

    Examples:
      peml tune examples/tune-demo.yaml
      peml tune examples/tune-demo.yaml --set budget.trials=40 --jobs 4
      peml tune examples/tune-demo.yaml --executor ray --address 10.0.0.1:6379 --jobs 16
      peml tune examples/tune-demo.yaml --set storage.url=postgresql+psycopg://me@host/studies
    """
    from peml.tuning.settings import load_study

    options = {"jobs": jobs, "kind": executor, "address": address}
    given = [f"execution.{name}={value}" for name, value in options.items() if value is not None]
    study = load_study(config, [*(overrides or ()), *given])
    with quick_imports():
        from peml.run.announcement import print_plan
        from peml.tuning.folder import StudyFolder
        from peml.tuning.pipeline import check_study, tune

    console = open_console()
    if dry_run:
        print_plan(check_study(study), console)
        _print_space(study, console)
        return
    folder = output or StudyFolder.default(config)
    tuned = tune(study, folder, console, report_only=report)
    _print_trials(tuned, console)
    places = f"\nReport: {folder / 'report.html'}"
    places += "" if tuned.best is None else f"\nBest:   {tuned.best}"
    console.print(places, soft_wrap=True)
    if tuned.best is None:
        raise typer.Exit(1)


def _print_space(study: StudyConfig, console: Console) -> None:
    rows = []
    for path, parameter in study.space.items():
        listed = ", ".join(map(str, parameter.ends()))
        if parameter.choices is None:
            listed = f"{parameter.low} to {parameter.high}"
            listed += ", log" if parameter.log else ""
            listed += f", step {parameter.step}" if parameter.step else ""
        rows.append([path, listed])
    title = f"Space, sampler {study.sampler.name}"
    print_table(console, [Column("path"), Column("values", fold=True)], rows, title=title)


def _listed(values: dict[str, Any]) -> str:
    shown = {path: f"{v:.4g}" if isinstance(v, float) else str(v) for path, v in values.items()}
    return ", ".join(f"{path}={value}" for path, value in shown.items())


def _print_trials(tuned: Tuned, console: Console) -> None:
    """The best trials; of two objectives, the whole front."""
    study = tuned.study
    finished = study.in_state("finished")
    if len(study.objectives) > 1:
        ranked = study.front()
    else:
        ranked = sorted(finished, key=lambda trial: -(trial.mean or 0.0))[:_SHOWN]
    columns = [
        Column("trial", right=True),
        *(Column(objective.title, right=True) for objective in study.objectives),
        Column("settings", fold=True),
    ]
    rows = []
    for trial in ranked:
        shown = [f"{value:.6g}" for value in trial.objectives]
        rows.append([str(trial.number), *shown, _listed(trial.values)])
    title = f"{study.name}: {len(finished)} of {len(study.trials)} finished"
    print_table(console, columns, rows, title=title)
    cost = study.cost
    console.print(f"{cost.trials} trials cost {cost.seconds:,.0f} s and {cost.tokens:,} tokens")
