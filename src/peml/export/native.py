"""The final model in PEML's native format: merged weights, static prefix, heads, tasks.

::

    model/
      backbone/            the merged model and its tokenizer, as save_pretrained writes them
      lora/                the LoRA (HiRA, ...) before merging, as PEFT saves it
      prefix.safetensors   keys and values of the active layers, if there is a prefix
      contexts.safetensors keys and values of each task's context, if there are contexts
      prompt.safetensors   vectors in front of the input embeddings, if there is a prompt
      adapter.safetensors  weights that can't be merged, if the method has any
      heads.safetensors    the encoder's heads
      peml.json            format, family, settings, tasks, how answers are scored and generated
      manifest.json        checksum of every file, written last
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import CheckpointError, ModelError
from peml.export.agreement import answers, check_agreement
from peml.export.saved import ACTION, DESCRIPTION, Description, SavedModel, describe, open_model
from peml.files import atomic_folder, write_tensors
from peml.injection.contexts import ALL_TASKS, Contexts
from peml.injection.inject import attach_prefix, injection_of
from peml.methods.attached import AttachedModel
from peml.methods.base import MethodSettings
from peml.models import TaskModel, check_prompt, load_backbone, make_room, make_room_for_context
from peml.models.quantization import is_quantized
from peml.prefix.prefix import Prefix
from peml.records.run import Agreement

_PREFIX, _PROMPT = "prefix.safetensors", "prompt.safetensors"
CONTEXTS = "contexts.safetensors"
"""The file of the tasks' contexts, by name."""
_SHARED = "*"  # in place of a task's name, which it can't be
_ADAPTER, _HEADS = "adapter.safetensors", "heads.safetensors"


def save_model(
    model: AttachedModel,
    folder: Path,
    method: MethodSettings,
    evaluation: Mapping[str, Any] = MappingProxyType({}),
    probes: Sequence[TaskBatch] = (),
    *,
    exact: bool = False,
) -> Agreement | None:
    """Merges a trained model and writes it; the model can't be trained afterwards.

    Args:
        model: The trained model; its LoRA is merged into the weights here.
        folder: The model's folder; appears when it is complete.
        method: The method's settings, from which `load_model` restores unmerged weights.
        evaluation: The run's evaluation settings, which predictions reuse; default: PEML's.
        probes: Batches of one task each. The trained model, which is freed after it is written,
            and the one read back from disk must give the same scores for them.
        exact: Merge and save in float32, whatever the weights were stored in.

    Returns:
        The largest difference of the two models' scores; None without probes.

    Raises:
        ModelError: A merged weight is NaN or infinite, or the weights are quantised.
        RunError: The two models' scores differ. No folder is written then.
    """
    base, device = model.base, model.base.device
    _refuse_quantized(base)
    if exact:
        _widen(base)
    trained = answers(model, probes)
    known: dict[str, str] = {}
    with atomic_folder(folder, known) as partial:
        model.save_parts(partial)
        unmerged = {name: value.clone() for name, value in model.kept().items()}
        contexts, seen = _contexts_of(model)
        prefix = model.merge()
        vectors = {} if prefix is None else {"prefix": prefix.tensor}
        _refuse_not_finite(base, [*unmerged.values(), *contexts.values(), *vectors.values()])
        _name_ends(base)
        base.backbone.save_pretrained(partial / "backbone")
        base.family.tokenizer.save_pretrained(partial / "backbone")
        _write_beside(partial, base, {_PREFIX: vectors, CONTEXTS: contexts, _ADAPTER: unmerged})
        description = Description(
            base_model=base.settings.name,
            method=method.model_dump(mode="json"),
            model=base.settings.model_copy(update={"family": base.family.name}),
            prefix_active=None if prefix is None else prefix.active,
            contexts_active=None if all(seen) else seen,
            evaluation=dict(evaluation),
            tasks=base.tasks,
        )
        saved = describe(partial, description)
        known |= saved.files
        if not probes:
            return None
        model.to("meta")
        loaded = load_saved(saved, device, trust_remote_code=base.settings.trust_remote_code)
        return check_agreement(trained, answers(loaded, probes), probes, loaded)


def _widen(base: TaskModel) -> None:
    """Stores the weights in float32."""
    base.backbone.float()
    base.settings = base.settings.model_copy(update={"dtype": "float32"})


def _refuse_quantized(base: TaskModel) -> None:
    if any(map(is_quantized, base.backbone.modules())):
        raise ModelError(
            "the weights are quantised, so nothing can be merged into them exactly",
            allowed="plain weights",
            action="save a model whose weights were dequantised, as `peml fit` does",
        )


def _contexts_of(model: AttachedModel) -> tuple[dict[str, Tensor], Sequence[bool]]:
    """Each context by the name of its task, and the layers that use them."""
    held = {
        _SHARED if task == ALL_TASKS else model.base.tasks[task].name: each
        for task, each in model.static_contexts().items()
    }
    seen = next((each.active for each in held.values()), ())
    return {name: each.tensor for name, each in held.items()}, seen


def _write_beside(folder: Path, base: TaskModel, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes the parts that aren't in the backbone: one file for each that has tensors."""
    files = {
        **parts,
        _PROMPT: {} if base.prompt.vectors is None else {"prompt": base.prompt.vectors},
        _HEADS: {} if base.heads is None else base.heads.state_dict(),
    }
    for name, tensors in files.items():
        if tensors:
            write_tensors(folder / name, tensors)


def _name_ends(base: TaskModel) -> None:
    """Adds the tokens that end a chat's answers to the files, so that other programs stop there."""
    if all(task.chat is not None for task in base.tasks):
        ends = [*base.family.spelling.ends, *(base.family.end_token(task) for task in base.tasks)]
        base.backbone.generation_config.eos_token_id = list(dict.fromkeys(ends))


def _refuse_not_finite(base: TaskModel, beside: Sequence[Tensor]) -> None:
    """Refuses NaN and infinite numbers in the merged model, or in the tensors beside it."""
    named: list[tuple[str, Tensor]] = [
        *base.named_parameters(),
        *((f"number {number} beside the backbone", each) for number, each in enumerate(beside)),
    ]
    # A finite sum has finite terms, and takes a tenth of the time of looking at each.
    broken = [n for n, each in named if not (each.sum().isfinite() or each.isfinite().all())]
    if broken:
        raise ModelError(
            f"{len(broken)} of the merged model's tensors are NaN or infinite, {broken[0]!r} among "
            "them",
            allowed="finite weights",
            action=base.not_finite_advice,
        )


def load_model(
    folder: Path, device: torch.device | None = None, *, trust_remote_code: bool = False
) -> TaskModel:
    """Loads a model that `save_model` wrote, its files verified, onto a device (default: the CPU).

    ``trust_remote_code`` lets Python code that comes with the model run; no file in the folder can.

    Raises:
        CheckpointError: A file is missing, altered or not listed, or in another format.
        ModelError: The model needs its own Python code, and `trust_remote_code` is False.
    """
    return load_saved(open_model(folder), device, trust_remote_code=trust_remote_code)


def load_saved(
    saved: SavedModel,
    device: torch.device | None = None,
    *,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Loads a model that `open_model` has verified, see `load_model`.

    ``dtype`` is the type of the frozen weights; default: as the model was saved.
    """
    settings, description = saved.settings(trust_remote_code=trust_remote_code), saved.description
    if dtype is not None:
        settings = settings.model_copy(update={"dtype": dtype})
    device = device or torch.device("cpu")
    model = TaskModel(load_backbone(settings), description.tasks)
    if model.heads is not None:
        shapes = {name: tuple(value.shape) for name, value in model.heads.state_dict().items()}
        model.heads.load_state_dict(saved.shaped(_HEADS, shapes))
    # On the model's device at once: otherwise they would be copied there in every forward pass.
    _attach_static_prefix(model, saved, device)
    _attach_contexts(model, saved, device)
    _set_prompt(model, saved, device)
    if _ADAPTER in saved.files:
        saved.method().restore(model, saved.tensors(_ADAPTER))
    return model.to(device).eval()


def _attach_static_prefix(model: TaskModel, saved: SavedModel, device: torch.device) -> None:
    active = saved.description.prefix_active
    if active is None:
        if _PREFIX in saved.files:
            raise CheckpointError(
                f"{saved.folder} has {_PREFIX}, but its {DESCRIPTION} says that there is no "
                "prefix (prefix_active)",
                action=ACTION,
            )
        return
    shape = (len(active), 2, None, None, None)
    tensor = saved.shaped(_PREFIX, {"prefix": shape})["prefix"]
    attach_prefix(model.backbone).set(Prefix(tensor.to(device), active))


def _attach_contexts(model: TaskModel, saved: SavedModel, device: torch.device) -> None:
    names = {number: task.name for number, task in enumerate(model.tasks) if task.context}
    if not names:
        return
    context = saved.method().context
    if context is not None and context.scope == "shared":
        names = {ALL_TASKS: _SHARED}
    injection = injection_of(model.backbone) or attach_prefix(model.backbone)
    shape = injection.shape
    wanted = (shape.layers, 2, shape.kv_heads, None, shape.head_dim)
    tensors = saved.shaped(CONTEXTS, dict.fromkeys(names.values(), wanted))
    active = saved.description.contexts_active or (True,) * shape.layers
    held = {number: Prefix(tensors[name].to(device), active) for number, name in names.items()}
    injection.set_contexts(Contexts(held, model.routing.rows))
    if all(site.causal for site in injection.sites):
        longest = max(prefix.length for prefix in held.values())
        make_room_for_context(model.family, longest, model.family.max_length)


def _set_prompt(model: TaskModel, saved: SavedModel, device: torch.device) -> None:
    if _PROMPT not in saved.files:
        return
    channels: int = model.backbone.get_input_embeddings().weight.shape[1]
    prompt = saved.shaped(_PROMPT, {"prompt": (None, channels)})["prompt"]
    make_room(model.family, (), 0, len(prompt))
    check_prompt(model.family, len(prompt))
    model.prompt.set(prompt.to(device))
