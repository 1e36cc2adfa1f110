"""Operations on each prefix position separately. They ignore presence."""

import torch.nn.functional as F
from torch import Tensor, nn

from peml.prefix.operations.operation import Operation, zero_linear


class Skip(Operation):
    """Adds nothing: the cell returns its input."""

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        return x.new_zeros(x.shape)


class Linear(Operation):
    """One linear layer."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        added: Tensor = self.last(x)
        return added


class _Perceptron(Operation):
    """Two linear layers with an activation between, as introduced by prefix tuning.

    Source: Li and Liang 2021 (arXiv 2101.00190), section 4.3, with tanh.
    """

    def __init__(self, width: int, length: int, hidden: int) -> None:
        super().__init__(width, length)
        self.first = nn.Linear(width, hidden)
        self.last = zero_linear(hidden, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        added: Tensor = self.last(self._activation(self.first(x)))
        return added

    def _activation(self, hidden: Tensor) -> Tensor:
        return F.gelu(hidden)


class GeluPerceptron(_Perceptron):
    """A perceptron with GELU and a hidden layer twice as wide."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length, 2 * width)


class TanhPerceptron(GeluPerceptron):
    """A perceptron with tanh and a hidden layer twice as wide, as in prefix tuning."""

    def _activation(self, hidden: Tensor) -> Tensor:
        return hidden.tanh()


class Bottleneck(_Perceptron):
    """A perceptron with GELU and a hidden layer a quarter as wide."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length, max(1, width // 4))


class Gated(Operation):
    """A gated MLP, ``W (silu(a) * b)``, with about the parameters of the plain ones.

    The hidden layer is 4/3 as wide. Source: Shazeer 2020 (arXiv 2002.05202), SwiGLU.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        hidden = max(1, 4 * width // 3)
        self.first = nn.Linear(width, 2 * hidden)
        self.last = zero_linear(hidden, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        gate, value = self.first(x).chunk(2, dim=-1)
        added: Tensor = self.last(F.silu(gate) * value)
        return added
