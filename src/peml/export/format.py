"""The interface of an export format, the registry of formats, and `export_model`."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from peml.errors import PemlError, RunError
from peml.export.native import load_saved
from peml.export.saved import SavedModel, open_model
from peml.export.source import find_model
from peml.files import new_folder, read_verified, refuse_sealed, verify_manifest, write_text
from peml.models import TaskModel
from peml.registry import Registry


class ExportFormat(ABC):
    """A format for tools other than PEML.

    `export_model` makes one object per export and calls `check`, `write` and `verify` in this
    order; the folder appears only if all pass. ``peml.testing.ExportSuite`` tests a format.

    Args:
        saved: The model, its files verified but not loaded.
        out: The final path of the folder.
        task: The only task to export; None for all tasks.
        trust_remote_code: Whether code that comes with the model may run.

    Attributes:
        holds_contexts: Whether the format keeps contexts; if not, models with contexts are refused.
        reader: What reads the folder in ``plain.py``; None: it can't be compared with predictions.
        exact: Whether answers that differ from the run's are refused, or only counted.
    """

    holds_contexts: ClassVar[bool] = False
    reader: ClassVar[str | None] = None
    exact: ClassVar[bool] = True

    def __init__(
        self, saved: SavedModel, out: Path, task: str | None, *, trust_remote_code: bool
    ) -> None:
        self.saved = saved
        self.out = out
        self.task = task
        self.trust_remote_code = trust_remote_code

    @property
    def has_contexts(self) -> bool:
        """Whether the model's tasks have contexts."""
        return any(task.context for task in self.saved.description.tasks)

    @property
    def task_names(self) -> list[str]:
        """The tasks that are exported."""
        return [self.task] if self.task else [task.name for task in self.saved.description.tasks]

    @property
    def reader_options(self) -> dict[str, Any]:
        """Further arguments of the reader."""
        return {}

    def place(self, task: str) -> str:
        """The part of the folder that answers a task's rows, in the reader's terms."""
        return ""

    @abstractmethod
    def check(self) -> None:
        """Refuses a model that the format can't express, before anything is loaded.

        Raises:
            PemlError: The message says what the format would lose, and what to use instead.
        """

    def check_model(self, model: TaskModel) -> None:  # noqa: B027
        """Refuses what is only known after loading; `write` refuses it too."""

    @abstractmethod
    def write(self, folder: Path) -> Sequence[str]:
        """Writes the model, with a README.md that says how to load it, into an empty folder.

        Returns the folders in it that other tools load; ``.`` for the folder itself.
        """

    @abstractmethod
    def verify(self, folder: Path) -> str:
        """Reads back what `write` wrote, as another tool would; refuses a folder that differs.

        Returns a sentence for the README: what was compared, and the difference; or nothing.
        """


EXPORTS: Registry[type[ExportFormat]] = Registry(
    "peml.exports",
    "export format",
    {
        "cartridge": "peml.export.cartridge:CartridgeExport",
        "gguf": "peml.export.gguf:GgufExport",
        "lora": "peml.export.lora:LoraExport",
        "onnx": "peml.export.onnx:OnnxExport",
        "onnx-int8": "peml.export.onnx:OnnxInt8Export",
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
    prove: Callable[[ExportFormat, Path], dict[str, Any]] | None = None,
    trust_remote_code: bool = False,
) -> list[Path]:
    """Writes a finished run's model for other tools; returns the folders that they load.

    Args:
        run_or_model: Run folder, or the ``model`` folder of one.
        out: New or empty folder.
        name: The format, one of `EXPORTS`.
        task: Only this task.
        prove: Compares the written folder with stored predictions; its figures become a part of
            the manifest.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        PemlError: There is no such format or no finished model, the format can't express it,
            ``out`` is not empty, or the exported model differs from the run's.
    """
    chosen = EXPORTS.load(name, "correct --format")
    export = chosen(
        open_model(find_model(run_or_model)), out, task, trust_remote_code=trust_remote_code
    )
    _refuse_contexts(export, name)
    export.check()
    _refuse_occupied(out)
    verified: dict[str, Any] = {}
    with new_folder(out, verified) as partial:
        folders = export.write(partial)
        if compared := export.verify(partial):
            verified["written"] = compared
        if prove is not None:
            verified["predictions"] = prove(export, partial)
        if verified:
            readme = partial / "README.md"
            text = readme.read_text(encoding="utf-8")
            write_text(readme, f"{text}\n{_spell(verified)}\n")
        for path in export.saved.folder.glob("README*"):  # the card and its drawing
            shutil.copyfile(path, partial / (RUN_CARD if path.name == "README.md" else path.name))
    return [out / folder for folder in folders]


def check_export(folder: Path) -> dict[str, Any]:
    """The checks from when a folder was exported; a folder with another file is refused.

    They are ``written``, a sentence, and ``predictions``, what `export_model`'s ``prove`` found.
    """
    verify_manifest(folder, "export it again from its run")
    return read_verified(folder)


def _spell(verified: Mapping[str, Any]) -> str:
    said = [f"Checked when it was written: {verified['written']}"] if "written" in verified else []
    if found := verified.get("predictions"):
        said.append(
            f"Compared with the run's stored predictions in a process without PEML: of "
            f"{found['rows']} rows, {found['same']} had the same answer; scores differed by at "
            f"most {found['largest_difference']:.2g}."
        )
    return "\n\n".join([*said, "`manifest.json` has the checksum of every file."])


def list_exports(
    run_or_model: Path, *, trust_remote_code: bool = False
) -> dict[str, PemlError | None]:
    """Every format, and why a finished run's model can't be exported to it; None if it can."""
    saved = open_model(find_model(run_or_model))
    model = load_saved(saved, trust_remote_code=trust_remote_code)
    found: dict[str, PemlError | None] = {}
    for name in EXPORTS.names():
        chosen = EXPORTS.load(name, "correct the package that adds it")
        export = chosen(saved, run_or_model, None, trust_remote_code=trust_remote_code)
        found[name] = None
        try:
            _refuse_contexts(export, name)
            export.check()
            export.check_model(model)
        except PemlError as error:
            found[name] = error
    return found


def _refuse_contexts(export: ExportFormat, name: str) -> None:
    """Refuses a model with contexts if the format doesn't keep them."""
    if export.has_contexts and not export.holds_contexts:
        held = [task.name for task in export.saved.description.tasks if task.context]
        raise RunError(
            f"the format {name!r} can't keep the contexts of {', '.join(held)}, so it would answer "
            "differently",
            allowed="models without contexts",
            action="use the native format (the run's model/ folder); decoders can use --format "
            "transformers",
        )


def _refuse_occupied(out: Path) -> None:
    """Makes sure that an export overwrites nothing, and damages no other model."""
    refuse_sealed(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(
            f"{out} exists and is not empty",
            allowed="a new or an empty folder",
            action="choose another one; nothing was changed",
        )
