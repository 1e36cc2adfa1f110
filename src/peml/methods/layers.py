"""Selects the layers named by ``target_modules``, and explains which can't have an update."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peml.errors import ModelError, nearest

if TYPE_CHECKING:
    from peml.models.routing import Side

ALL_LINEAR = "all-linear"
READ_DIRECTLY = "the model reads its weight without calling it"


_SHOWN = 4
"""Number of paths that a message lists; further ones are counted."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A layer of the backbone with one matrix, to which a low-rank update can be added.

    Attributes:
        name: Its path in the backbone.
        d_in: Inputs; of an embedding, its rows.
        d_out: Outputs.
        kind: ``linear``; ``output``: the linear layer that makes the logits; or ``embedding``.
        tied: Paths of the other layers that use the same weight.
        side: The tokens that it processes; set when a method attaches.
    """

    name: str
    d_in: int
    d_out: int
    kind: Literal["linear", "output", "embedding"] = "linear"
    tied: tuple[str, ...] = ()
    side: Side = "inputs"


@dataclass(frozen=True)
class Layers:
    """The layers of a model that ``target_modules`` can name.

    Attributes:
        linears: Layers with one matrix, in the model's order.
        others: All other modules, and parameters that hold several matrices: path -> description.
        fused: Paths of those parameters, mostly the experts of a mixture.
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
        """The layers that ``target_modules`` names.

        Args:
            target_modules: ``all-linear``, which is every linear layer but the output layer; a
                regular expression for the whole path; or names that a path equals or ends with.
            setting: Name of the setting, for messages.
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
        """Paths of everything that is named, including layers that can't have an update."""
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
                f"{setting} names what a low-rank update does not fit: {listed}",
                allowed=self._available(),
                action=f"leave it out of {setting}; where linear layers share its name, name them "
                f"by more of their path, or set {setting}: {ALL_LINEAR}",
            )

    def _available(self) -> str:
        names = sorted({layer.name.rpartition(".")[2] for layer in self.linears})
        return ", ".join(names) or "the model has no linear layers"


def _refuse_tied(layers: Sequence[LinearShape], setting: str) -> None:
    """Refuses layers that share a weight: merging would also change the other layer."""
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
