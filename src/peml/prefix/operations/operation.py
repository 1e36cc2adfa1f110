"""The interface of a candidate operation of a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Operation(nn.Module, ABC):
    """One candidate of a cell: what it adds to the residual stream over prefix positions.

    Contract (``peml.testing.OperationSuite`` checks it):

    * A new operation adds zero. Its last layer starts at zero, so that no candidate starts with an
      advantage, or with noise that would drive the search towards ``skip``. The layers before it
      are initialised as usual, so that all parameters get gradients after the first step.
    * A position with presence exactly 0 has no influence on any other position, so a prefix of a
      chosen length equals one that never had the other positions.

    Args:
        width: Channels of the hidden states.
        length: The most positions it will see: the longest length of a search space, or the
            length of a decided network. In a search it also sees fewer.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.width = width
        self.length = length

    @abstractmethod
    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """Computes the contribution of this operation.

        Args:
            x: Normalised hidden states of the prefix positions, (length, width).
            presence: How much each position is part of the prefix, (length,), from 0 to 1 and
                never increasing. The first is always 1. Operations that mix positions must
                use it; others may ignore it.

        Returns:
            What is added to the residual stream, (length, width).
        """

    @torch.no_grad()
    def inherit(self, other: Operation) -> None:
        """Copies the weights of the same operation, made for as many positions or more.

        Called at the end of a search. A parameter whose size depends on the length gets the first
        rows or columns, those of the first positions; override this if that is wrong.
        """
        given = other.state_dict()
        for name, value in self.state_dict().items():
            value.copy_(given[name][tuple(slice(size) for size in value.shape)])


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero, as the last layer of an operation must."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
