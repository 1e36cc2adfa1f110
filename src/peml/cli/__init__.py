"""The command line: one file or folder per verb.

These modules import no other room at their top: a command imports what it uses when it is called,
so that `peml --help` and the light verbs don't wait for torch.
"""

import atexit
import gc
import os
import sys
import warnings
from typing import Annotated, Any

import typer

import peml
from peml.cli.add_task import add_task_command
from peml.cli.compare import compare_command
from peml.cli.config import config_app
from peml.cli.doctor import doctor
from peml.cli.estimate import estimate_command
from peml.cli.evaluate.command import evaluate_command
from peml.cli.export import export_command
from peml.cli.fit import fit_command
from peml.cli.genotype import genotype_app
from peml.cli.init import init_command
from peml.cli.predict import predict_command
from peml.cli.push import push_command
from peml.cli.serve import serve_command
from peml.cli.tasks.command import tasks_app
from peml.cli.tune import tune_command
from peml.errors import PemlError
from peml.terminal import open_console

__all__ = ["app", "main"]

_INTERRUPTED = 130  # what Typer makes of Ctrl-C

app = typer.Typer(
    name="peml",
    help="Train one frozen language model on many tasks with one small adapter.\n\n"
    "`peml --debug COMMAND ...` shows the traceback of an error. Exit codes: 2 for an error that "
    "its message explains, 1 for other failures and for checks that fail.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"peml {peml.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    distributed = _distributed()
    if distributed is not None:
        distributed.join_for(str(context.invoked_subcommand))


app.command("init")(init_command)
app.command("fit")(fit_command)
app.command("estimate")(estimate_command)
app.command("tune")(tune_command)
app.command("compare")(compare_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("serve")(serve_command)
app.command("add-task")(add_task_command)
app.command("export")(export_command)
app.command("push")(push_command)
app.command("doctor")(doctor)
app.add_typer(tasks_app, name="tasks")
app.add_typer(config_app, name="config")
app.add_typer(genotype_app, name="genotype")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake ends with one message and exit code 2.

    With ``--debug`` in front of the verb the traceback is shown as well.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    warnings.formatwarning = _one_line
    atexit.register(gc.freeze)  # Python would search all libraries for garbage once more
    _show_no_bars()
    try:
        app(args=words)
    except PemlError as error:
        if debug:
            raise
        _tell(f"error: {error}", style="red")
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            _tell("stopped; run the same command again to resume", style="yellow")
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason and not debug:
            _tell(f"error: {reason}", style="red")
            sys.exit(2)
        if _speaks():
            raise
        sys.exit(1)


def _disk_reason(error: Exception) -> str:
    """Says which place of the disk can't be used and why; empty for all other errors."""
    if not isinstance(error, OSError):
        return ""
    from peml.files import DISK_REASONS

    reason = DISK_REASONS.get(error.errno or 0, "")
    return f"{error.filename or 'a file'} can't be used: {reason}" if reason else ""


def _tell(message: str, style: str) -> None:
    """Shows why the command ends; several processes of a run show it once."""
    if _speaks():
        name = distributed.named() if (distributed := _distributed()) else ""
        open_console(stderr=True, soft_wrap=True).print(f"{name}{message}", style=style)


def _speaks() -> bool:
    distributed = _distributed()
    return distributed is None or distributed.speaks()


def _distributed() -> Any:
    """The module that knows of other processes, which needs torch; None without a launcher."""
    if "WORLD_SIZE" not in os.environ:
        return None
    from peml import distributed

    return distributed


def _show_no_bars() -> None:
    """Keeps the libraries' own bars from running across ours, here and in workers."""
    # Read as the libraries are imported.
    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as people read it: without the place in the code that it comes from."""
    return f"warning: {message}\n"
