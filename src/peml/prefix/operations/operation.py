"""What a candidate operation of a cell is, and the registry of their names."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module

from torch import Tensor, nn

from peml.errors import ConfigError, nearest


class Operation(nn.Module, ABC):
    """One candidate of a cell: what it adds to the residual stream over prefix positions.

    Contract (``peml.testing.OperationSuite`` checks it):

    * A fresh operation adds zero. Its last layer starts at zero, so that no candidate starts
      with an advantage, or with noise that would drive the search towards ``skip``. The layers
      before it start as usual, so gradients reach everything after the first step.
    * A position of presence exactly 0 has no influence on any other position, so a prefix whose
      length was decided equals one that never had the other positions.
    """

    @abstractmethod
    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """Computes the contribution of this operation.

        Args:
            x: Normalised hidden states of the prefix positions, (length, width).
            presence: How far each position is part of the prefix, (length,), from 0 to 1 and
                never rising. The first is always 1. Operations that mix positions must
                heed it; the others may ignore it.

        Returns:
            What is added to the residual stream, (length, width).
        """


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero, as the last layer of an operation must."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


_FACTORIES: dict[str, Callable[[int], Operation]] = {}


def register_operation(name: str, factory: Callable[[int], Operation]) -> None:
    """Makes an operation available to search spaces and genotypes under a name.

    Called once, at import time of the module that defines the operation.

    Args:
        name: Lower-case name with dashes, as written in configs and genotype files.
        factory: Makes the operation from the width; usually the class itself.

    Raises:
        ConfigError: If the name is malformed or taken.
    """
    _register_built_in()
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ConfigError(
            f"{name!r} can't be the name of an operation.",
            allowed="lower-case letters, digits and dashes, a letter first",
            action="register it under another name",
        )
    if name in _FACTORIES:
        raise ConfigError(
            f"The operation {name!r} is registered already, by {_FACTORIES[name]!r}.",
            allowed=f"any name but {', '.join(list_operations())}",
            action="register it under another name",
        )
    _FACTORIES[name] = factory


def list_operations() -> tuple[str, ...]:
    """The registered names, sorted."""
    _register_built_in()
    return tuple(sorted(_FACTORIES))


def _register_built_in() -> None:
    """Those that come along are defined in modules that need this one."""
    import_module("peml.prefix.operations.built_in")


def make_operation(name: str, width: int) -> Operation:
    """Makes a fresh operation.

    Args:
        name: A registered name.
        width: Channels of the hidden states it works on.

    Raises:
        ConfigError: If no operation has that name.
    """
    _register_built_in()
    if name not in _FACTORIES:
        raise ConfigError(
            f"There is no operation {name!r}.{nearest(name, _FACTORIES)}",
            allowed=", ".join(list_operations()),
            action="correct the name, or import the module that registers it first",
        )
    return _FACTORIES[name](width)
