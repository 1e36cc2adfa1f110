"""Finds the layers of a model that can have a low-rank update."""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peml.injection.probe import probe_decoder_side
from peml.methods.layers import READ_DIRECTLY, Layers, LinearShape
from peml.models.quantization import is_quantized, sizes


def find_linears(backbone: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of a model by its path, the output layer included.

    GPT-2's ``Conv1D`` counts as one: it is a linear layer with a transposed weight.
    """
    return {name: module for name, module in backbone.named_modules() if _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, Conv1D) or is_quantized(module):
        return True
    if not isinstance(module, nn.Linear):
        return False
    # Some classes inherit from a linear layer and compute something else, such as routers.
    return type(module).forward is nn.Linear.forward or _computes_a_product(module)


@torch.no_grad()
def _computes_a_product(layer: nn.Linear) -> bool:
    weight = layer.weight
    x = torch.linspace(-1, 1, 2 * layer.in_features).view(2, layer.in_features).to(weight)
    try:
        y: Any = layer(x)
        wanted = nn.functional.linear(x, weight, layer.bias)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    same = isinstance(y, Tensor) and y.shape == wanted.shape
    return same and torch.allclose(y.float(), wanted.float(), rtol=1e-2, atol=1e-2)


def read_layers(backbone: Any) -> Layers:
    """Looks at every module of a model without parts, except those that only read images."""
    linears, places = find_linears(backbone), _places(backbone)
    direct = {kind: _read_directly(kind) for kind in {type(each) for each in backbone.modules()}}
    shapes: list[LinearShape] = []
    others: dict[str, str] = {}
    fused: list[str] = []
    seen: dict[int, str] = {}
    beside = _beside_texts(backbone)
    for name, module in backbone.named_modules(remove_duplicate=False):
        if module in beside:
            continue
        if id(module) in seen:
            others[name] = f"the same layer as {seen[id(module)]}"
            continue
        seen[id(module)] = name
        parent, _, short = name.rpartition(".")
        if name in linears and short in direct[type(backbone.get_submodule(parent))]:
            others[name] = READ_DIRECTLY
            continue
        if name in linears or type(module) is nn.Embedding:
            shapes.append(_shape(name, module, places, backbone.get_output_embeddings()))
            continue
        others[name] = type(module).__name__
        # Each matrix of a mixture's experts is part of one parameter, not a layer.
        for short, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not isinstance(module, nn.modules.conv._ConvNd):
                sizes = " x ".join(map(str, parameter.shape))
                others[f"{name}.{short}"] = f"{sizes}, several matrices in one parameter"
                fused.append(f"{name}.{short}")
    return Layers(tuple(shapes), others, tuple(fused))


def _beside_texts(backbone: Any) -> set[nn.Module]:
    """The modules of a decoder that texts don't go through, such as Gemma 3's vision tower."""
    config = backbone.config
    if config.is_encoder_decoder or config.get_text_config() is config:
        return set()
    return {*backbone.modules()} - {
        *backbone.get_decoder().modules(),
        backbone.get_output_embeddings(),
    }


# As an argument of a call or a factor of a product, but not for its type or in `isinstance`.
_READ = re.compile(r"(?<!isinstance\()\bself\.(\w+)\.weight\s*(?:[,)]|@)")
_SETS_UP = ("__init__", "reset_parameters", "_reset_parameters", "init_weights", "_init_weights")


def _read_directly(parent: type[nn.Module]) -> set[str]:
    """Children whose weight a module's code reads instead of calling them.

    Mamba's fused kernels on GPUs and torch's MultiheadAttention do so: they would ignore an update
    on the layer.
    """
    own = parent.__mro__[: parent.__mro__.index(nn.Module)]
    functions = (
        each
        for made in own
        for name, each in vars(made).items()
        if isinstance(each, FunctionType) and name not in _SETS_UP
    )
    return {child for function in functions for child in _weights_in(function)}


@cache
def _weights_in(function: FunctionType) -> frozenset[str]:
    found: set[str] = set()
    behind = [function]
    for each in behind:
        with suppress(OSError, TypeError):  # made at run time: there is no source
            found |= {*_READ.findall(inspect.getsource(each))}
        # A decorator may not name the function that it wraps.
        held = inspect.getclosurevars(each).nonlocals.values()
        behind += [one for one in held if isinstance(one, FunctionType) and one not in behind]
    return frozenset(found)


def _shape(
    name: str, module: nn.Module, places: Mapping[int, Sequence[str]], output: nn.Module | None
) -> LinearShape:
    transposed = isinstance(module, (Conv1D, nn.Embedding))  # a weight of (d_in, d_out)
    tied: tuple[str, ...] = ()
    if is_quantized(module):
        first, second = sizes(module)
    else:
        weight = module.get_parameter("weight")
        first, second = weight.shape
        tied = tuple(path for path in places[_memory(weight)] if path != name)
    kind: Literal["linear", "output", "embedding"] = "output" if module is output else "linear"
    return LinearShape(
        name,
        d_in=first if transposed else second,
        d_out=second if transposed else first,
        kind="embedding" if isinstance(module, nn.Embedding) else kind,
        tied=tied,
    )


def _places(backbone: nn.Module) -> dict[int, list[str]]:
    """The paths of the layers that use each parameter, by its place in memory.

    A layer that two blocks contain is listed twice. A block that is used in two places isn't: an
    update inside it works in both.
    """
    places: dict[int, list[str]] = {}
    for path, block in backbone.named_modules():
        for name, child in block._modules.items():
            for parameter in child.parameters(recurse=False) if child is not None else ():
                places.setdefault(_memory(parameter), []).append(f"{path}.{name}".lstrip("."))
    return places


def _memory(parameter: Tensor) -> int:
    return parameter.data_ptr() or id(parameter)  # without values there is no address


def with_sides(backbone: nn.Module, layers: Sequence[LinearShape]) -> tuple[LinearShape, ...]:
    """The layers with their `LinearShape.side`; an encoder-decoder is run once to find it.

    Raises:
        InjectionError: It can't be run on a few token ids.
    """
    decoders = probe_decoder_side(backbone, [layer.name for layer in layers])
    return tuple(
        replace(layer, side="targets" if layer.name in decoders else "inputs") for layer in layers
    )
