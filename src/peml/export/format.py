"""What an export format is, the formats there are, and how a model is written in one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from peml.errors import RunError
from peml.export.saved import SavedModel, open_model
from peml.export.source import find_model
from peml.files import new_folder, write_text
from peml.registry import Registry


class ExportFormat(ABC):
    """A format for tools that don't know this package.

    Made for one export by `export_model`, which calls `check`, `write` and `verify` in this order;
    the folder appears at its place only where all three pass. ``peml.testing.ExportSuite`` checks
    a format.

    Args:
        saved: The model, its files verified, nothing loaded yet.
        out: Where the folder will be in the end.
        task: The only task to export; None for all of them.
        trust_remote_code: Whether code that comes with the model may run.
    """

    def __init__(
        self, saved: SavedModel, out: Path, task: str | None, *, trust_remote_code: bool
    ) -> None:
        self.saved = saved
        self.out = out
        self.task = task
        self.trust_remote_code = trust_remote_code

    @abstractmethod
    def check(self) -> None:
        """Refuses a model that the format can't express, before anything is loaded.

        Raises:
            PemlError: What the format would lose, and what to use instead.
        """

    @abstractmethod
    def write(self, folder: Path) -> Sequence[str]:
        """Writes the model, with a README.md that says how to load it.

        Args:
            folder: Empty, and not yet at its place.

        Returns:
            The folders in it that other tools load; ``.`` for the folder itself.
        """

    @abstractmethod
    def verify(self, folder: Path) -> str:
        """Reads back what `write` wrote, as another tool would.

        Returns:
            What was compared and how near it came, a sentence for the README; empty if nothing
            was measured.

        Raises:
            PemlError: It is not the model that was exported.
        """


EXPORTS: Registry[type[ExportFormat]] = Registry(
    "peml.exports",
    "export format",
    {"lora": "peml.export.lora:LoraExport", "peft": "peml.export.peft:PeftExport"},
)


def export_model(
    run_or_model: Path,
    out: Path,
    name: str,
    task: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> list[Path]:
    """Writes a finished run's model for other tools.

    Args:
        run_or_model: Run folder, or the ``model`` folder of one.
        out: New or empty folder.
        name: The format, one of `EXPORTS`.
        task: Only this task.
        trust_remote_code: Run Python code that comes with the model.

    Returns:
        The folders that other tools load.

    Raises:
        ConfigError: There is no format of this name.
        CheckpointError: There is no finished model, or its files were altered.
        RunError: The format can't express the model, ``out`` holds something, or what was written
            is not the run's model.
    """
    chosen = EXPORTS.load(name, "correct --format")
    export = chosen(
        open_model(find_model(run_or_model)), out, task, trust_remote_code=trust_remote_code
    )
    export.check()
    _refuse_occupied(out)
    with new_folder(out) as partial:
        folders = export.write(partial)
        if compared := export.verify(partial):
            readme = partial / "README.md"
            said = readme.read_text(encoding="utf-8")
            write_text(readme, f"{said}\nChecked when it was written: {compared}\n")
    return [out / folder for folder in folders]


def _refuse_occupied(out: Path) -> None:
    """Makes sure that an export overwrites nothing."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(
            f"{out} exists and is not empty",
            allowed="a new or an empty folder",
            action="choose another one; nothing was changed",
        )
