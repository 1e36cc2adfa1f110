"""Layers without values of the size of quantised layers; needs no quantisation library."""

from typing import Any

import torch
from torch import Tensor, nn

_BITS = {"int8": 8}
"""Bits per weight; 4 in all other formats."""

_BLOCK = 64
"""Weights per byte of scales, in 4 bits."""


class PackedStandIn(nn.Linear):
    """A linear layer with packed weights, which are unpacked for each product and then freed."""

    def __init__(self, linear: nn.Linear, bits: int) -> None:
        nn.Module.__init__(self)  # makes no weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._type = linear.weight.dtype
        weights = self.in_features * self.out_features
        scales = 4 * self.out_features if bits == 8 else weights // _BLOCK
        self.register_buffer("qweight", torch.empty(weights * bits // 8, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8))
        self.register_parameter("bias", linear.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The unpacked weight, for methods that read it."""
        return torch.empty(self.out_features, self.in_features, dtype=self._type)

    def forward(self, x: Tensor) -> Tensor:
        """The product in the input's type, or in autocast's."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        y: Tensor = _Product.apply(x, self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """A product whose weight is unpacked again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d_out: int) -> Tensor:
        ctx.d_in = x.shape[-1]
        return x @ x.new_empty(ctx.d_in, d_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ gradient.new_empty(gradient.shape[-1], ctx.d_in), None


def pack(model: Any, quantization: str | None) -> None:
    """Replaces the layers that are stored in 8 or 4 bits; none of them for plain weights."""
    if quantization is None:
        return
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and should_convert_module(path, kept):
            model.set_submodule(path, PackedStandIn(module, _BITS.get(quantization, 4)))
