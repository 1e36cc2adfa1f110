"""A trained model as ordinary LoRA adapters, which PEFT loads without PEML.

::

    OUT/
      README.md                    how to load the adapters
      manifest.json                checksum of every file
      adapter_config.json          one LoRA for all tasks, if they share it,
      adapter_model.safetensors
      heads.safetensors
      TASK/                        or one such folder per task
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

from peml.errors import RunError
from peml.export.format import ExportFormat
from peml.export.native import load_saved
from peml.export.readme import write_readme
from peml.export.saved import SavedModel
from peml.export.source import USE_NATIVE, check_task
from peml.files import read_tensors, write_tensors
from peml.methods.base import Method
from peml.methods.lora.peft_format import write_peft_lora
from peml.methods.routed.delta import AdaptedLinear
from peml.models import TaskModel
from peml.models.embedded import EMBEDDED, embedded_model
from peml.tasks import Task


class LoraExport(ExportFormat):
    """A finished run's model as LoRA adapters in PEFT's format.

    If the method has a set of weights per task, each task becomes one exact LoRA in its own folder;
    if all tasks share one, it is written as the run trained it.
    """

    reader: ClassVar[str | None] = "lora"
    _model: TaskModel
    _folders: list[str]

    @property
    def reader_options(self) -> dict[str, Any]:
        """The base model, and the pooling of an encoder's heads."""
        name, family = self.saved.description.base_model, self._model.family
        base = str(embedded_model(name)) if name in EMBEDDED else name
        first = family.pooling == "first"
        return {"base": base, "loader": family.auto_class.__name__, "first": first}

    def place(self, task: str) -> str:
        """The task's name, which identifies its adapter and head."""
        return task

    def check(self) -> None:
        """Refuses a model that is not only a LoRA, and a task it was not trained on."""
        _refuse(self.saved, self.saved.method())
        check_task(self.saved, self.task)
        numbered = enumerate(self.saved.description.tasks)
        self._tasks = {n: task for n, task in numbered if self.task in (None, task.name)}

    def check_model(self, model: TaskModel) -> None:
        """Refuses a LoRA that PEFT would load onto other layers."""
        if self.saved.has("lora"):
            _refuse_renamed(self.saved.folder / "lora", model)

    def write(self, folder: Path) -> Sequence[str]:
        """Writes one adapter, or one per task, and the heads."""
        saved, tasks = self.saved, self._tasks
        self._model = model = load_saved(saved, trust_remote_code=self.trust_remote_code)
        per_task = saved.method().merging.how == "per task"
        if per_task:
            modules = model.backbone.named_modules()
            layers = {name: part for name, part in modules if isinstance(part, AdaptedLinear)}
            if not layers:
                problem = f"the method {saved.method_name!r} has no low-rank layers to export"
                raise RunError(problem, action=USE_NATIVE)
            for number, task in tasks.items():
                factors = {name: layer.delta.factors(number) for name, layer in layers.items()}
                target = folder / task.name
                write_peft_lora(target, factors, model.backbone, saved.description.base_model)
                _write_heads(target, model, {number: task})
        else:
            saved.copy("lora", folder)
            _write_heads(folder, model, tasks)
        base = saved.description.base_model
        write_readme(
            folder,
            "lora",
            saved,
            model,
            per_task=per_task,
            loader=model.family.auto_class.__name__,
            origin=EMBEDDED[base].origin if base in EMBEDDED else "",
            pooling="" if model.heads is None else model.family.pooling,
            tasks=list(tasks.values()),
        )
        self._folders = [task.name for task in tasks.values()] if per_task else ["."]
        return self._folders

    def verify(self, folder: Path) -> str:
        """Reads each adapter, and checks onto which layers PEFT would load it."""
        for name in self._folders:
            read_tensors(folder / name / "adapter_model.safetensors")
            _refuse_renamed(folder / name, self._model)
        return ""


def _refuse(saved: SavedModel, method: Method) -> None:
    """Refuses a model that is more than a LoRA."""
    merging, name = method.merging, saved.method_name
    beside = [what for what in ("prefix", "prompt") if f"{what}.safetensors" in saved.files]
    problem, allowed = "", "methods whose update is a LoRA, and nothing beside it"
    if merging.how == "never":
        problem, allowed = f"the method {name!r} can't be exported as a LoRA: {merging.reason}", ""
    elif merging.how == "per task":
        return
    elif not saved.has("lora"):
        problem = f"the method {name!r} trained no LoRA"
    elif beside:
        problem = (
            f"the method {name!r} trained a {beside[0]} besides its LoRA, which PEFT's LoRA format "
            "can't store"
        )
    if problem:
        raise RunError(problem, allowed=allowed, action=USE_NATIVE)


def _refuse_renamed(adapter: Path, model: TaskModel) -> None:
    """Refuses an adapter that PEFT would load onto other layers than the trained ones.

    In some mixtures of experts, it takes every layer named like an expert's for an expert.
    """
    config = LoraConfig.from_pretrained(str(adapter))
    targets = set(config.target_modules or ())
    problem = ""
    try:
        convert_peft_config_for_transformers(config, model.backbone, None)
    except ValueError as error:
        problem = f"PEFT can't load the adapter: {error}"
    renamed = sorted(targets - set(config.target_modules or ()))
    if renamed:
        problem = (
            f"PEFT treats {', '.join(renamed[:3])} of this model as experts of a mixture, and "
            "would load the adapter onto other layers than it was trained on"
        )
    if problem:
        raise RunError(
            problem,
            allowed="adapters of layers that PEFT finds by their names",
            action=f"train with target_modules that leave these layers out, or {USE_NATIVE}",
        )


def _write_heads(folder: Path, model: TaskModel, tasks: dict[int, Task]) -> None:
    """Writes the rows of the heads' matrix that belong to the tasks."""
    heads: Any = model.heads
    if heads is None:
        return
    split = {name: getattr(heads, name).split(heads.sizes) for name in ("weight", "bias")}
    tensors = {
        f"{task.name}.{name}": rows[number]
        for number, task in tasks.items()
        for name, rows in split.items()
    }
    write_tensors(folder / "heads.safetensors", tensors)
