"""Operations that mix prefix positions. All of them use presence."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peml.prefix.operations.operation import Operation, zero_linear


class Convolution(Operation):
    """A depthwise 1-D convolution over positions, GELU, and a linear layer over channels.

    Positions beyond either end count as zero, and so do absent ones.
    """

    kernel = 3
    """Positions that each output depends on; odd, so that they are centred."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        bound = 1 / math.sqrt(self.kernel)
        self.depthwise = nn.Parameter(torch.empty(width, self.kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        half = self.kernel // 2
        padded = F.pad(x * presence[:, None], (0, 0, half, half))
        # On tensors this small a view and a product are three times faster than conv1d.
        windows = padded.unfold(0, self.kernel, 1)  # (length, width, kernel)
        added: Tensor = self.last(F.gelu((windows * self.depthwise).sum(-1) + self.bias))
        return added


class SelfAttention(Operation):
    """Multi-head self-attention among the prefix positions, without position encoding.

    Positions differ by their learnt embeddings only, so permuting the inputs permutes the
    outputs. There are as many of 4, 2 or 1 heads as divide the width.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.heads = math.gcd(width, 4)
        self.first = nn.Linear(width, 3 * width)
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        length, width = x.shape
        projected = self.first(x).view(length, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(1, 2, 0, 3)  # each (heads, length, channels)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        # The clamp keeps the logarithm's gradient finite; presence 0 gets exactly no attention.
        presence_log = presence.clamp_min(torch.finfo(presence.dtype).tiny).log()
        weights = (scores + presence_log.masked_fill(presence == 0, -torch.inf)).softmax(-1)
        mixed = (weights @ value).transpose(0, 1).reshape(length, width)
        added: Tensor = self.last(mixed)
        return added


class GRU(Operation):
    """A gated recurrent unit from the first position to the last (``torch.nn.GRU``).

    Information flows forward only, so absent positions, which come last, can't affect the others.
    Its steps are sequential: about 2.6 ms forward and backward for 16 positions on a CPU, more than
    all other candidates together. The default search space has :class:`MinimalGRU` instead.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.first = nn.GRU(width, width)
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        hidden, _ = self.first(x * presence[:, None])
        added: Tensor = self.last(hidden)
        return added


class MinimalGRU(Operation):
    """A GRU whose gates depend on the input only, so that all positions are computed at once.

    ``h_t = (1 - z_t) h_{t-1} + z_t c_t`` with ``z_t = sigmoid(W_z x_t)`` and
    ``c_t = tanh(W_c x_t)``, solved in closed form:
    ``h_t = sum over j <= t of z_j c_j prod(1 - z_i for i = j+1..t)``.

    Source: Feng et al. 2024, "Were RNNs all we needed?" (arXiv 2410.01201), equation of minGRU;
    the tanh is ours, it keeps the state bounded.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.first = nn.Linear(width, 2 * width)
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        gate, candidate = self.first(x * presence[:, None]).chunk(2, dim=-1)
        log_decay = F.logsigmoid(-gate).cumsum(0)  # log of prod(1 - z_i), i = 0..t
        length = x.shape[0]
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        # (t, j, width). Masked before exp, not after: there the exponent is positive and may
        # overflow, and inf * 0 would be NaN in the backward pass.
        log_ratio = log_decay[:, None] - log_decay[None, :]
        decay = log_ratio.masked_fill(future[:, :, None], -torch.inf).exp()
        state = (decay * (gate.sigmoid() * candidate.tanh())[None]).sum(1)
        added: Tensor = self.last(state)
        return added
