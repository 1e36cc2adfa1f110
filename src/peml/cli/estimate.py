"""`peml estimate`: memory, FLOPs and hours of a run before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from peml.cli.options import SetOption
from peml.cli.sparing import quick_imports
from peml.terminal import Column, open_console, print_table

if TYPE_CHECKING:
    from peml.estimation import Estimate


def estimate_command(
    config: Annotated[Path, typer.Argument(help="Config file, for example examples/demo.yaml.")],
    overrides: SetOption = None,
    device: Annotated[
        str, typer.Option(help="Where it is to run: h100, a100, rtx4090, or cpu (this machine).")
    ] = "cpu",
    share: Annotated[
        float, typer.Option(help="Fraction of the device's peak FLOP/s that the run reaches.")
    ] = 0.4,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Train rows of all tasks together, without reading data."),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Mean tokens of these rows, with --rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> None:
    """Estimate a run's memory, FLOPs and hours. No weights are loaded and nothing is written.

    Examples:
      peml estimate examples/demo.yaml
      peml estimate examples/glue.yaml --device h100 --set batches.tokens=8192
      peml estimate examples/glue.yaml --device a100 --rows 50000 --length 60
    """
    from peml.config.loading import load_config

    settings = load_config(config, overrides or ())
    with quick_imports():
        from peml.estimation import estimate, read_device

    found = estimate(settings, read_device(device), share=share, rows=rows, length=length)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _print(found, open_console())


def _print(found: Estimate, console: Console) -> None:
    from peml.reporting.numbers import memory

    parts = {"training": found.training, "evaluation": found.evaluation}
    known = {name: part for name, part in parts.items() if part is not None}
    sizes = {name: part.model_dump() for name, part in known.items()}
    columns = [Column("memory"), *(Column(name, right=True) for name in known)]
    names = list(next(iter(sizes.values()), {}))
    rows = [[name, *(memory(part[name]) for part in sizes.values())] for name in names]
    rows.insert(-1, [])
    print_table(console, columns, rows, title=f"{found.method} on {found.model}")
    lines = [f"parameters: {found.parameters:,} of the model"]
    lines.append(f"trainable: {_listed(found.trainable_parameters)}")
    if found.trainable_parameters_in_search is not None:
        lines[-1] += ", expected after the search"
        lines.append(f"trainable in the search: {_listed(found.trainable_parameters_in_search)}")
    lines += [f"precision: {found.precision.sentence}", f"rows: {found.basis}"]
    if found.batch is not None:
        lines.append(f"largest training batch: {found.batch[0]} x {found.batch[1]} tokens")
    limit = "" if found.device_memory is None else f" of {memory(found.device_memory)}"
    lines.append(
        f"memory needed: {memory(found.needed)}{limit}, "
        f"of which {memory(found.overhead)} are assumed for libraries"
    )
    for phase, count in found.flops.items():
        step = found.step_flops.get(phase)
        each = "" if step is None else f", {step:.3g} in each of {found.steps[phase]:,} steps"
        lines.append(f"{phase}: {count:.3g} FLOPs{each}, {found.hours[phase]:.2g} hours")
    lines.append(
        f"together: {sum(found.hours.values()):.2g} hours on {found.device}, at {found.share:.0%} "
        f"of {found.peak / 1e12:.3g} TFLOP/s (assumed)"
    )
    for line in lines:
        console.print(line, soft_wrap=True)


def _listed(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,}" + (f" ({parts})" if parts else "")
