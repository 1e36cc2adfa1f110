"""Finds the model of a finished run for all exports, and refuses unsuitable ones."""

from pathlib import Path

from peml.errors import CheckpointError, RunError, TaskError, nearest
from peml.export.saved import SavedModel

USE_NATIVE = "use the run's model/ folder as it is: `peml predict` and peml.load() read it"
"""The action of every refusal: the native format can store every model."""


def find_model(path: Path) -> Path:
    """The model's folder of a finished run, or the folder itself if it is one."""
    model = path / "model" if (path / "model").is_dir() else path
    if model != path and model.is_symlink():
        raise CheckpointError(
            f"{model} is a link to {model.resolve()}",
            allowed="a model inside its run folder",
            action="give the folder that the link points to, if that is the model you mean",
        )
    if not (model / "peml.json").is_file():
        raise CheckpointError(
            f"{path} has no finished model",
            allowed="the folder of a finished run, or its model/ folder",
            action="run `peml fit` on it to the end first, with `--set export=true` if its config "
            "says export: false",
        )
    return model


def refuse_unmerged(saved: SavedModel, format_name: str) -> None:
    """Refuses a model that isn't a decoder with updates merged into its weights."""
    name, family = saved.method_name, saved.description.model.family
    merging = saved.method().merging
    problem, allowed, action = "", "methods that merge once", USE_NATIVE
    if merging.how == "per task":
        problem = f"the method {name!r} has separate weights for each task: {merging.reason}"
        action = "export one adapter per task: --format lora"
    elif merging.how == "never":
        problem = f"the method {name!r} can't be merged: {merging.reason}"
    elif family != "causal":
        heads = f", whose heads the format {format_name!r} can't store"
        prefix = f"; the format {format_name!r} would not apply a prefix to its encoder"
        problem = f"the model is of the family {family!r}{heads if family == 'encoder' else prefix}"
        allowed = "decoder-only models (the family 'causal')"
        if saved.has("lora") and "prefix.safetensors" not in saved.files:
            action = "export only the LoRA: --format lora"
    if problem:
        raise RunError(problem, allowed=allowed, action=action)


def check_task(saved: SavedModel, task: str | None) -> None:
    """Refuses the name of a task that the model doesn't have."""
    names = [each.name for each in saved.description.tasks]
    if task is not None and task not in names:
        raise TaskError(
            f"the model was not trained on a task {task!r}.{nearest(task, names)}",
            allowed=", ".join(names),
            action="name one of its tasks, or leave --task out for all tasks",
        )


def refuse_task(task: str | None, format_name: str) -> None:
    """Refuses the export of one task in a format that is the same for all tasks."""
    if task is not None:
        raise RunError(
            f"--task {task}: the exported model is the same for all tasks",
            allowed=f"no --task with --format {format_name}, for this model",
            action="leave --task out",
        )
