"""`peml fit`: train, evaluate, save and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from peml.cli.options import OutputOption, SetOption
from peml.cli.sparing import quick_imports
from peml.terminal import Column, open_console, print_table

if TYPE_CHECKING:
    from peml.records.run import Results

_MARKS = {"train": "", "reported": "*"}


def fit_command(
    config: Annotated[Path, typer.Argument(help="Config file, for example examples/demo.yaml.")],
    overrides: SetOption = None,
    output: OutputOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")
    ] = False,
) -> None:
    """Train one model on many tasks. In an existing run folder, resume where it stopped.

    Examples:
      peml fit examples/demo.yaml
      peml fit examples/glue.yaml --set tasks.source=data/glue --set training.epochs=3
      peml fit examples/glue.yaml --set method.name=lora --output runs/glue-lora
    """
    from peml.config.loading import load_config

    settings = load_config(config, overrides or ())
    with quick_imports():
        from peml.distributed import join, leave
        from peml.records.plan import Plan
        from peml.run.announcement import print_cautions, print_plan
        from peml.run.folder import RunFolder
        from peml.run.pipeline import fit, plan

    console = open_console(quiet=not join().is_first)
    if dry_run:
        print_plan(plan(settings), console)
        return
    folder = output or RunFolder.default(config, settings.output)
    run = fit(settings, folder, console)
    print_results(run.results, console)
    if not console.quiet:  # another process may not see the folder
        print_cautions(Plan.read(folder), console)
    model = str(folder / "model")
    if not (folder / "model").is_dir():
        model = f"not saved; `peml fit {folder / 'config.yaml'} --set export=true` saves it"
    console.print(f"\nReport: {folder / 'report.html'}\nModel:  {model}", soft_wrap=True)
    leave()


def print_results(results: Results, console: Console) -> None:
    """Shows the table of a finished run."""
    from peml.reporting.numbers import memory
    from peml.reporting.summary import MAJORITY_NOTE

    parts = list(results.ablation_means)
    columns = [
        Column("task"),
        Column("metric", drop=len(parts) + 1),
        Column("value", right=True),
        Column("majority", right=True),
        *(
            Column(f"{part.replace('_', ' ')} off", right=True, drop=n + 1)
            for n, part in enumerate(parts)
        ),
    ]
    rows: list[list[str]] = []
    for name, task in results.tasks.items():
        majority = f"{task.majority:.3f}{_MARKS[task.majority_of]}"
        off = (f"{task.without[part]:.3f}" for part in parts)
        rows.append([name, task.metric, f"{task.value:.3f}", majority, *off])
    means = [results.mean, results.majority_mean, *results.ablation_means.values()]
    rows += [[], ["mean", "", *(f"{value:.3f}" for value in means)]]
    title = f"{results.method} on {results.model}, seed {results.seed}"
    print_table(console, columns, rows, title=title)
    if any(task.majority_of == "reported" for task in results.tasks.values()):
        console.print(f"* {MAJORITY_NOTE}")
    cost = results.cost
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in cost.seconds.items())
    console.print(
        f"{seconds}; peak memory {memory(cost.peak_memory_bytes or 0)}; "
        f"{cost.total_trainable_parameters:,} trainable parameters"
    )
    if cost.tuning is not None:
        text = f"settings tuned in {cost.tuning.trials} other runs: {cost.tuning.seconds:,.0f} s"
        console.print(f"{text}, {cost.tuning.tokens:,} tokens")
