"""`peml genotype`: read, compare, draw and check decided prefix networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from peml.cli.options import TrustOption
from peml.errors import ConfigError, ModelError, RunError
from peml.terminal import open_console

if TYPE_CHECKING:
    from peml.prefix.genotype import Genotype
    from peml.prefix.shape import PrefixShape
    from peml.reporting.run.outcomes import Outcome

genotype_app = typer.Typer(
    help="Read, compare, draw or check the network behind a prefix.", no_args_is_help=True
)

_Source = Annotated[Path, typer.Argument(help="Genotype file, or a run folder.")]


def _load(source: Path) -> Genotype:
    """Reads a file, or the genotype of a run folder."""
    from peml.prefix.genotype import Genotype

    path = source / "genotype.json" if source.is_dir() else source
    if path != source and not path.is_file():
        raise RunError(
            f"{source} holds no genotype.json",
            allowed="the folder of a run whose method has a prefix network, after its search",
            action="check the path, or let the run get past its search",
        )
    return Genotype.load(path)


@genotype_app.command("show")
def show(source: _Source) -> None:
    """Print what a prefix network is made of, its size, and how it was found."""
    from peml.prefix.size import count_network
    from peml.reporting.run.outcomes import judge_found

    genotype = _load(source)
    outcomes = judge_found(genotype.found_by, genotype.choices())
    active = genotype.active_layers
    low_rank = genotype.head == "low-rank"
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("cells", " -> ".join(genotype.cells)),
        ("length", str(genotype.length)),
        ("layers", f"{len(active)} of {len(genotype.layers)}: {', '.join(map(str, active))}"),
        ("head", f"low-rank, rank {genotype.head_rank}" if low_rank else genotype.head),
        ("width", str(genotype.width)),
        ("radius", f"{genotype.radius:g}"),
        ("made for", _described(genotype.shape)),
        *((f"LoRA rank: {group}", str(rank)) for group, rank in genotype.ranks.items()),
        ("parameters", f"{count_network(genotype):,}"),
        *((f"found: {k}", str(value)) for k, value in genotype.found_by.items() if k != "weights"),
        *((f"weights: {found.name}", _weights(found)) for found in outcomes),
    ):
        table.add_row(name, value)
    open_console().print(table)


def _weights(found: Outcome) -> str:
    """Weights of a decision at the end of the free search, the chosen option first."""
    shown = f"{found.chosen} {found.weight:.2f}"
    if found.runner_up:
        shown += f", then {found.runner_up} {found.runner_up_weight:.2f}"
    return f"{shown}: {found.note}" if found.note else shown


@genotype_app.command("diff")
def diff(first: _Source, second: _Source) -> None:
    """Print the differences between two prefix networks. The exit code is 1 if there are any."""
    from peml.prefix.adaptation import differences

    rows = differences(_load(first), _load(second))
    if not rows:
        typer.echo("no difference")
        return
    table = Table("", str(first), str(second), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    open_console().print(table)
    raise typer.Exit(code=1)


@genotype_app.command("plot")
def plot(
    source: _Source, out: Annotated[Path, typer.Argument(help="File to write, .png or .svg.")]
) -> None:
    """Draw a prefix network and the model layers that get its prefix."""
    from peml.reporting.run.diagram import save_drawing

    save_drawing(_load(source), out)
    typer.echo(str(out))


@genotype_app.command("check")
def check(
    source: _Source,
    model: Annotated[
        str | None,
        typer.Option(help="Model to check it against: hub id, local folder or 'minilm'."),
    ] = None,
    adapted: Annotated[
        bool, typer.Option("--adapt", help="Fit it to the model, and print the changes.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the adapted genotype to this file.")
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Check that a genotype can be read, and that it fits a model.

    Examples:
      peml genotype check runs/glue --model meta-llama/Llama-3.2-1B
      peml genotype check runs/glue --model meta-llama/Llama-3.2-1B --adapt --output llama.json
    """
    if (adapted and model is None) or (output is not None and not adapted):
        raise ConfigError(
            "--adapt needs --model, and --output needs --adapt",
            action="name the model with --model",
        )
    genotype = _load(source)
    typer.echo(f"readable, made for {_described(genotype.shape)}")
    if model is None:
        return
    from peml.injection.support import check_support
    from peml.models import ModelSettings, load_backbone
    from peml.prefix.adaptation import adapt

    # The shortest length, so that no model is refused for having few positions.
    settings = ModelSettings(name=model, max_length=8, trust_remote_code=trust_remote_code)
    support = check_support(load_backbone(settings).model)
    if support.shape is None:
        raise ModelError(
            f"{settings.name} can't take a prefix: {support.reason}",
            allowed="models that use Transformers' attention interface",
            action=support.action,
        )
    shape = support.shape
    if adapted:
        genotype, changes = adapt(genotype, shape)
        for change in changes:
            typer.echo(f"adapted: {change}")
    genotype.check_fits(shape)
    typer.echo(f"fits {model}: {_described(shape)}")
    if output is not None:
        genotype.save(output)
        typer.echo(str(output))


def _described(shape: PrefixShape) -> str:
    return f"{shape.layers} layers, {shape.kv_heads} key/value heads of {shape.head_dim} channels"
