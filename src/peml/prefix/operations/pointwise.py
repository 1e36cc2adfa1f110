"""Operations that treat every prefix position by itself. They ignore presence."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from peml.prefix.operations.operation import Operation, zero_linear


class Skip(Operation):
    """Adds nothing: the cell is its residual alone.

    Args:
        width: Channels; unused, there is nothing to size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """Zeros, (length, width)."""
        return x.new_zeros(x.shape)


class Linear(Operation):
    """One linear layer.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """See :meth:`Operation.forward`."""
        return self.last(x)


class Perceptron(Operation):
    """Two linear layers with an activation between; the form prefix tuning introduced.

    Source: Li and Liang 2021 (arXiv 2101.00190), section 4.3, with tanh.

    Args:
        width: Channels.
        hidden: Channels of the hidden layer.
        activation: Applied to the hidden layer.
    """

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.last = zero_linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """See :meth:`Operation.forward`."""
        return self.last(self.activation(self.first(x)))


class Gated(Operation):
    """A gated MLP, ``W (silu(a) * b)``, with about the parameters of the plain ones.

    Source: Shazeer 2020 (arXiv 2002.05202), SwiGLU.

    Args:
        width: Channels; the hidden layer has 4/3 as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(1, 4 * width // 3)
        self.first = nn.Linear(width, 2 * hidden)
        self.last = zero_linear(hidden, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """See :meth:`Operation.forward`."""
        gate, value = self.first(x).chunk(2, dim=-1)
        return self.last(F.silu(gate) * value)
