"""`peml config`: the schema of a config file, and a config with all defaults."""

import json
from pathlib import Path
from typing import Annotated

import typer

from peml.cli.options import SetOption

config_app = typer.Typer(help="Describe or check a config file.", no_args_is_help=True)


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a config file, with a description of every field."""
    from peml.config.model import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("show")
def show(
    config: Annotated[Path, typer.Argument(help="Config file.")], overrides: SetOption = None
) -> None:
    """Check a config file and print it with every default filled in."""
    from peml.config.loading import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides or ())), nl=False)
