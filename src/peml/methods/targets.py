"""The layers that low-rank updates work on, chosen by name, and why the others can't be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peml.errors import ModelError, nearest
from peml.injection import probe_decoder_side
from peml.models import Side

__all__ = ["ALL_LINEAR", "Layers", "LinearShape", "find_linears", "read_layers", "with_sides"]

ALL_LINEAR = "all-linear"

_SHOWN = 4
"""Paths that a message lists before it counts the rest."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A layer of the backbone with one matrix, to which a low-rank update fits.

    Attributes:
        name: Its path in the backbone.
        d_in: Inputs; of an embedding, its rows.
        d_out: Outputs.
        kind: ``linear``; ``output``: the linear layer that makes the logits; or ``embedding``.
        tied: Paths of the other layers that use the same weight.
        side: Whose tokens it sees; known where a method attaches.
    """

    name: str
    d_in: int
    d_out: int
    kind: Literal["linear", "output", "embedding"] = "linear"
    tied: tuple[str, ...] = ()
    side: Side = "inputs"


@dataclass(frozen=True)
class Layers:
    """What ``target_modules`` can name in a model.

    Attributes:
        linears: Layers with one matrix, in the model's order.
        others: All other modules, and parameters that hold several matrices: path -> what it is.
        fused: Paths of those parameters, the experts of a mixture mostly.
    """

    linears: tuple[LinearShape, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[str, ...] = ()

    def select(
        self,
        target_modules: str | Sequence[str],
        *,
        setting: str = "target_modules",
        embeddings: bool = False,
    ) -> tuple[LinearShape, ...]:
        """The layers that ``target_modules`` means.

        Args:
            target_modules: ``all-linear``, which is every linear layer but the output layer; a
                regular expression for the whole path; or names that a path equals or ends with.
            setting: What the config calls it, for messages.
            embeddings: Whether the caller's update also fits an embedding.

        Raises:
            ModelError: A name fits nothing, or something that an update can't be put on: no linear
                layer, a weight that another layer uses as well.
        """
        if target_modules == ALL_LINEAR:
            found = [layer for layer in self.linears if layer.kind == "linear"]
            fits = {layer.name for layer in found}
        else:
            fits = self._named(target_modules, setting)
            found = [layer for layer in self.linears if layer.name in fits]
        self._refuse_unfit(fits, setting, embeddings=embeddings)
        if not found:
            raise ModelError(
                f"no linear layer of the model fits {setting}={target_modules!r}",
                allowed=self._available(),
                action=f"set {setting} to names of this model's layers",
            )
        _refuse_tied(found, setting)
        return tuple(found)

    def _named(self, target_modules: str | Sequence[str], setting: str) -> set[str]:
        """Paths of all that is meant, whether an update fits it or not."""
        paths = [*(layer.name for layer in self.linears), *self.others]
        if isinstance(target_modules, str):
            return self._matching(target_modules, paths, setting)
        named = {
            target: {path for path in paths if path == target or path.endswith(f".{target}")}
            for target in target_modules
        }
        unknown = [target for target, found in named.items() if not found]
        if unknown or not named:
            known = {layer.name.rpartition(".")[2] for layer in self.linears}
            guesses = "".join(nearest(target, known) for target in unknown)
            raise ModelError(
                f"no linear layer of the model fits {', '.join(map(repr, unknown)) or 'the empty'} "
                f"{'in ' if unknown else ''}{setting}.{guesses}",
                allowed=self._available(),
                action=f"correct or remove them in {setting}",
            )
        return set().union(*named.values())

    def _matching(self, pattern: str, paths: Sequence[str], setting: str) -> set[str]:
        try:
            found = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ModelError(
                f"{setting}={pattern!r} is no regular expression: {error}",
                action="correct it, or give a list of names",
            ) from error
        if not found:
            raise ModelError(
                f"no linear layer of the model fits {setting}={pattern!r}, a regular expression "
                "for the whole path",
                allowed=self._available(),
                action=f"correct it, or give a list of names: {setting}: [{pattern}]",
            )
        return found

    def _refuse_unfit(self, paths: set[str], setting: str, *, embeddings: bool) -> None:
        unfit = {path: what for path, what in self.others.items() if path in paths}
        if not embeddings:
            tables = (one for one in self.linears if one.kind == "embedding" and one.name in paths)
            unfit |= {one.name: "an embedding, which this method can't adapt" for one in tables}
        if unfit:
            listed = _listed([f"{path} ({what})" for path, what in unfit.items()])
            raise ModelError(
                f"{setting} names what is no linear layer: {listed}",
                allowed=self._available(),
                action=f"leave it out of {setting}; where linear layers share its name, name them "
                f"by more of their path, or set {setting}: {ALL_LINEAR}",
            )

    def _available(self) -> str:
        names = sorted({layer.name.rpartition(".")[2] for layer in self.linears})
        return ", ".join(names) or "the model has no linear layers"


def _refuse_tied(layers: Sequence[LinearShape], setting: str) -> None:
    """A merged update would change the other layer too, which trained without it."""
    tied = [layer for layer in layers if layer.tied]
    if tied:
        listed = _listed([f"{one.name} (with {', '.join(one.tied)})" for one in tied])
        names = ", ".join(dict.fromkeys(one.name.rpartition(".")[2] for one in tied))
        raise ModelError(
            f"{setting} names layers whose weight another layer uses as well: {listed}. Merged, an "
            "update of one would change the other, so the saved model would not be the trained one",
            allowed="layers with a weight of their own",
            action=f"leave {names} out of {setting}, or untie the model: load it with "
            "tie_word_embeddings=False, give the output layer a copy of the weight, and save it",
        )


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def find_linears(backbone: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of a model by its path, the output layer included.

    GPT-2's ``Conv1D`` is one: a linear layer with its weight transposed.
    """
    return {name: module for name, module in backbone.named_modules() if _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, Conv1D):
        return True
    if not isinstance(module, nn.Linear):
        return False
    # Some classes inherit from a linear layer and compute something else, routers for example.
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
    """Looks at every module of a model that nothing is attached to."""
    linears, places = find_linears(backbone), _places(backbone)
    shapes: list[LinearShape] = []
    others: dict[str, str] = {}
    fused: list[str] = []
    seen: dict[int, str] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        if id(module) in seen:
            others[name] = f"the same layer as {seen[id(module)]}"
            continue
        seen[id(module)] = name
        if name in linears or type(module) is nn.Embedding:
            shapes.append(_shape(name, module, places, backbone.get_output_embeddings()))
            continue
        others[name] = type(module).__name__
        # The experts of a mixture are a matrix each in one parameter, and no layers by themselves.
        for short, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not isinstance(module, nn.modules.conv._ConvNd):
                sizes = " x ".join(map(str, parameter.shape))
                others[f"{name}.{short}"] = f"{sizes}, several matrices in one parameter"
                fused.append(f"{name}.{short}")
    return Layers(tuple(shapes), others, tuple(fused))


def _shape(
    name: str, module: nn.Module, places: Mapping[int, Sequence[str]], output: nn.Module | None
) -> LinearShape:
    weight = module.get_parameter("weight")
    first, second = weight.shape
    transposed = isinstance(module, (Conv1D, nn.Embedding))  # a weight of (d_in, d_out)
    kind: Literal["linear", "output", "embedding"] = "output" if module is output else "linear"
    return LinearShape(
        name,
        d_in=first if transposed else second,
        d_out=second if transposed else first,
        kind="embedding" if isinstance(module, nn.Embedding) else kind,
        tied=tuple(path for path in places[_memory(weight)] if path != name),
    )


def _places(backbone: nn.Module) -> dict[int, list[str]]:
    """The paths of the layers that use each parameter, by its place in memory.

    A layer that stands in two blocks is listed twice. A block that stands in two places isn't:
    what is put into it works in both.
    """
    places: dict[int, list[str]] = {}
    for path, block in backbone.named_modules():
        for name, child in block._modules.items():
            for parameter in child.parameters(recurse=False) if child is not None else ():
                places.setdefault(_memory(parameter), []).append(f"{path}.{name}".lstrip("."))
    return places


def _memory(parameter: Tensor) -> int:
    return id(parameter) if parameter.is_meta else parameter.data_ptr()


def with_sides(backbone: nn.Module, layers: Sequence[LinearShape]) -> tuple[LinearShape, ...]:
    """The layers with whose tokens they see, for which an encoder-decoder is run once.

    Raises:
        InjectionError: It can't be run on a few token ids.
    """
    decoders = probe_decoder_side(backbone, [layer.name for layer in layers])
    return tuple(
        replace(layer, side="targets" if layer.name in decoders else "inputs") for layer in layers
    )
