"""The interface of an export format, the registry of formats, and `export_model`."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from peml.errors import RunError
from peml.export.saved import SavedModel, open_model
from peml.export.source import find_model
from peml.files import new_folder, write_text
from peml.registry import Registry


class ExportFormat(ABC):
    """A format for tools other than PEML.

    `export_model` creates one object per export and calls `check`, `write` and `verify` in this
    order; the folder appears at its final path only if all three pass. ``peml.testing.ExportSuite``
    tests a format.

    Args:
        saved: The model, its files verified but not loaded.
        out: The final path of the folder.
        task: The only task to export; None for all tasks.
        trust_remote_code: Whether code that comes with the model may run.

    Attributes:
        holds_contexts: Whether the format keeps the tasks' contexts; without, models with contexts
            are refused.
    """

    holds_contexts: ClassVar[bool] = False

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
            PemlError: Says what the format would lose, and what to use instead.
        """

    @abstractmethod
    def write(self, folder: Path) -> Sequence[str]:
        """Writes the model, with a README.md that says how to load it.

        Args:
            folder: An empty folder, not yet at its final path.

        Returns:
            The folders in it that other tools load; ``.`` for the folder itself.
        """

    @abstractmethod
    def verify(self, folder: Path) -> str:
        """Reads back what `write` wrote, as another tool would.

        Returns:
            A sentence for the README: what was compared, and the difference; empty if nothing was
            measured.

        Raises:
            PemlError: It differs from the run's model.
        """


EXPORTS: Registry[type[ExportFormat]] = Registry(
    "peml.exports",
    "export format",
    {
        "lora": "peml.export.lora:LoraExport",
        "peft": "peml.export.peft:PeftExport",
        "text": "peml.export.text:TextExport",
        "transformers": "peml.export.transformers:TransformersExport",
    },
)


RUN_CARD = "README-run.md"
"""The run's model card in an export, beside the README that says how to load it."""


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
        RunError: The format can't express the model, ``out`` is not empty, or the exported model
            differs from the run's.
    """
    chosen = EXPORTS.load(name, "correct --format")
    export = chosen(
        open_model(find_model(run_or_model)), out, task, trust_remote_code=trust_remote_code
    )
    held = [task.name for task in export.saved.description.tasks if task.context]
    if held and not chosen.holds_contexts:
        raise RunError(
            f"the format {name!r} can't keep the contexts of {', '.join(held)}, so it would answer "
            "differently",
            allowed="models without contexts",
            action="use the native format (the run's model/ folder)",
        )
    export.check()
    _refuse_occupied(out)
    with new_folder(out) as partial:
        folders = export.write(partial)
        if compared := export.verify(partial):
            readme = partial / "README.md"
            text = readme.read_text(encoding="utf-8")
            write_text(readme, f"{text}\nChecked when it was written: {compared}\n")
        for path in export.saved.folder.glob("README*"):  # the card and its drawing
            shutil.copyfile(path, partial / (RUN_CARD if path.name == "README.md" else path.name))
    return [out / folder for folder in folders]


def _refuse_occupied(out: Path) -> None:
    """Makes sure that an export overwrites nothing."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(
            f"{out} exists and is not empty",
            allowed="a new or an empty folder",
            action="choose another one; nothing was changed",
        )
