"""Reads an adapter that PEFT saved, to start a part's training from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor

from peml.errors import ModelError
from peml.files import read_tensors
from peml.methods.base import PEFT_CONFIG, PEFT_WEIGHTS

# Fields that don't change a layer's update. Weights' names say which layers are adapted.
_FREE = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "corda_config", "eva_config"),
        *("exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights"),
        *("init_weights", "layers_pattern", "layers_to_transform", "loftq_config"),
        *("lora_dropout", "hira_dropout", "miss_dropout", "lora_ga_config", "megatron_core"),
        *("modules_to_save", "peft_version", "revision", "runtime_config", "target_modules"),
        "task_type",
    }
)
# All other initialisations change the base model's weights.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
_BASE = ".base_layer."  # PEFT's name of a layer that has an adapter
_NEXT = "correct the method's settings or init_from"


def read_adapter(folder: Path, own: PeftConfig) -> dict[str, Tensor]:
    """The weights of an adapter, by PEFT's names without ``base_model.``.

    Raises:
        ModelError: The adapter is damaged, has another type, rank or scale, values that are no
            numbers, or changed the base model.
    """
    if not (folder / PEFT_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} has no {PEFT_WEIGHTS}",
            allowed="an adapter that PEFT saved as safetensors",
            action="save it again with PEFT's save_pretrained",
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / PEFT_CONFIG} can't be read: {error}",
            allowed="an adapter that PEFT saved",
            action="save it again with PEFT's save_pretrained",
        ) from error
    problem = _difference(config.to_dict(), own.to_dict())
    start = getattr(config, "init_lora_weights", None)
    if start not in _PLAIN_STARTS:
        problem = problem or f"init_lora_weights is {start!r}, which changes the base model"
    if problem:
        raise ModelError(
            f"the adapter {folder} doesn't fit the method: {problem}",
            allowed="an adapter of the same kind, rank and scale",
            action=_NEXT,
        )
    tensors = read_tensors(folder / PEFT_WEIGHTS)
    if odd := sorted(name for name, value in tensors.items() if not value.isfinite().all()):
        raise ModelError(
            f"{folder / PEFT_WEIGHTS} has values in {odd[0]} (one of {len(odd)}) that are no "
            "numbers, or infinite",
            allowed="finite numbers",
            action="take an earlier checkpoint of the adapter: its training diverged, or its type "
            "overflowed",
        )
    return {name.removeprefix("base_model."): value for name, value in tensors.items()}


def _difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    for name in sorted((saved.keys() | own.keys()) - _FREE):
        one, other = saved.get(name), own.get(name)
        if (one or None) != (other or None):
            return f"{name} of the adapter is {one}, and of the method {other}"
    return ""


def copy_weights(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: Any, prefix: str
) -> list[str]:
    """Copies an adapter's weights into those of a part.

    `own` are the part's weights, overwritten by the saved ones of the same names; `prefix` is in
    the names of the tuner's weights (``lora_``).

    Returns:
        Names of other saved weights: a classifier, layers that the backbone doesn't have.

    Raises:
        ModelError: The adapter has other layers, weights of another shape, or its own of a frozen
            layer.
    """
    # Other classes of the model hold the backbone under a name, such as ``bert``.
    inner = f"model.{getattr(backbone, 'base_model_prefix', '')}."
    nested = not any(name.startswith(inner) for name in own)
    by_name = {
        f"model.{name.removeprefix(inner)}" if nested and name.startswith(inner) else name: value
        for name, value in saved.items()
    }
    here = {f"model.{path}" for path, _ in backbone.named_modules()}
    others = by_name.keys() - own.keys()
    odd = sorted(own.keys() - by_name.keys()) or sorted(
        name for name in others if name.partition(f".{prefix}")[0] in here
    )
    if odd:
        where = "the method lacks" if odd[0] in by_name else "the adapter lacks"
        raise ModelError(
            f"the adapter is on other layers: {where} {odd[0]} (one of {len(odd)})",
            allowed="an adapter on exactly the layers of the method's target_modules",
            action=_NEXT,
        )
    for name, value in own.items():
        if value.shape != by_name[name].shape:
            raise ModelError(
                f"the adapter's {name} has shape {tuple(by_name[name].shape)}",
                allowed=f"{tuple(value.shape)}, as the base model's layer needs",
                action=_NEXT,
            )
    frozen = _frozen_names({name: by_name[name] for name in others}, backbone)
    for name, value in own.items():
        value.copy_(by_name[name])
    return sorted(others - frozen)


def _frozen_names(saved: Mapping[str, Tensor], backbone: Any) -> set[str]:
    """The names among `saved` of frozen weights: copies that come with adapted embeddings.

    Raises:
        ModelError: One differs from the frozen weight, such as a layer of ``modules_to_save``.
    """
    named = backbone.named_parameters(remove_duplicate=False)
    frozen = {f"model.{path.replace(_BASE, '.')}": weight for path, weight in named}
    found = {name: frozen.get(name.replace(_BASE, ".")) for name in saved}
    for name, weight in found.items():
        if weight is not None and not _is_rounded(saved[name], weight.cpu()):
            raise ModelError(
                f"the adapter has another {name} than the base model (modules_to_save, or an "
                "embedding that was resized), which no part of the method trains",
                allowed="an adapter whose weights are all of layers in its target_modules",
                action="merge the adapter into the base model, and give that as model.name",
            )
    return {name for name, weight in found.items() if weight is not None}


def _is_rounded(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are equal in the type of one of them."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(other.to(one.dtype), one)
