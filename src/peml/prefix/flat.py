"""The prefix without a network: keys and values are parameters themselves."""

import torch
from torch import Tensor, nn

from peml.prefix.head import bounded
from peml.prefix.prefix import Prefix, PrefixStart
from peml.prefix.shape import PrefixShape

# Norm of a value at the start, in units of the model's own values.
_VALUE_NOISE = 0.1


class FlatPrefix(nn.Module):
    """One learnable tensor that is added to the start.

    Positions that start equal get equal gradients and stay equal, so a prefix of any length would
    act like a single position. So if the keys start equal (a start without rows), the values start
    with a little noise, with a tenth of the norm of the model's own values.

    Source: the prefix of Li and Liang 2021 (arXiv 2101.00190) without its network, as P-Tuning v2
    (arXiv 2110.07602) and PEFT have it.

    `radius` is the largest correction, relative to the start's radii; None for no limit.

    Noise comes from torch's global generator, as in any ``nn.Module``.
    """

    base: Tensor
    limit: Tensor | None

    def __init__(self, start: PrefixStart, length: int, *, radius: float | None = 1.0) -> None:
        super().__init__()
        self.register_buffer("base", _start_rows(start, length))
        limit = None if radius is None else radius * start.radius.detach()[:, :, None, None, None]
        self.register_buffer("limit", limit)
        self.correction = nn.Parameter(torch.zeros_like(self.base))

    @property
    def shape(self) -> PrefixShape:
        """Layers, heads and channels."""
        layers, _, kv_heads, _, head_dim = self.base.shape
        return PrefixShape(layers, kv_heads, head_dim)

    def forward(self) -> Prefix:
        """The prefix, with gradients; its ``.detached()`` is the static prefix."""
        correction: Tensor = self.correction
        if self.limit is not None:
            correction = bounded(correction, self.limit)
        return Prefix(self.base + correction, (True,) * self.base.shape[0])


def _start_rows(start: PrefixStart, length: int) -> Tensor:
    """Keys and values at the start, (layers, 2, kv_heads, length, head_dim)."""
    if start.rows is not None:
        return start.rows.detach()[..., :length, :].clone()
    layers, kv_heads, head_dim = start.keys.shape
    rows = torch.randn(layers, 2, kv_heads, length, head_dim)
    rows[:, 0] = start.keys.detach().cpu()[:, :, None, :]
    values = start.radius.detach().cpu()[:, 1, None, None, None]
    rows[:, 1] *= _VALUE_NOISE * values / head_dim**0.5
    return rows
