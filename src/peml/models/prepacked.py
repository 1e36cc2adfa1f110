"""Linear layers that keep their weights in the layout in which oneDNN computes.

PyTorch converts a weight into that layout for every product. With few rows, that takes as long as
the product itself. `torch.compile` freezes models with the same two operators.
"""

from typing import Any

import torch
from torch import Tensor, nn

_TYPES = (torch.float32, torch.bfloat16)
_ROWS = 4  # of the input that a layer is tested on
_TIMES_ROUNDING = 64.0


class PrepackedLinear(nn.Module):
    """Computes what a frozen `nn.Linear` computes, on a CPU, without gradients.

    Attributes:
        weight: Its weight, in a layout that only this layer reads; models ask for its type.
    """

    weight: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        operators: Any = torch.ops.mkldnn
        self._operators = operators
        # In no `state_dict`, and never moved: it is useless elsewhere.
        self.__dict__["weight"] = operators._reorder_linear_weight(layer.weight.detach(), None)
        self.__dict__["bias"] = None if layer.bias is None else layer.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (..., out_features) of inputs (..., in_features)."""
        weight, bias = self.weight, self.__dict__["bias"]
        result: Tensor = self._operators._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result


@torch.no_grad()
def prepack(model: nn.Module) -> int:
    """Replaces a model's linear layers by prepacked ones; for models that will only be evaluated.

    Not replaced are layers on another device than a CPU or of another type than float32 and
    bfloat16, tied layers, the output layer, layers within modules that are not Transformers' own
    (adapters read their weights), and layers whose outputs would change by more than rounding.

    Returns:
        Number of layers that were replaced.
    """
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    has_operators = all(hasattr(torch.ops.mkldnn, name) for name in operators)
    if not torch.backends.mkldnn.is_available() or not has_operators:
        return 0
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    output: Any = getattr(model, "get_output_embeddings", lambda: None)
    last = output()
    count = 0
    for parent in list(model.modules()):
        if not type(parent).__module__.startswith("transformers."):
            continue
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Linear or layer is last or uses[id(layer.weight)] > 1:
                continue
            packed = _prepacked(layer)
            if packed is not None:
                setattr(parent, name, packed)
                count += 1
    return count


def _prepacked(layer: nn.Linear) -> PrepackedLinear | None:
    weight = layer.weight
    is_hooked = layer._forward_hooks or layer._forward_pre_hooks
    if weight.device.type != "cpu" or weight.dtype not in _TYPES or is_hooked:
        return None
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_ROWS, layer.in_features, generator=generator).to(weight.dtype)
    wanted = layer(inputs)
    try:
        packed = PrepackedLinear(layer)
        found = packed(inputs)
    except RuntimeError:  # a processor for which oneDNN has no such kernel
        return None
    most = _TIMES_ROUNDING * torch.finfo(weight.dtype).eps * wanted.abs().max()
    return packed if (found - wanted).abs().max() <= most else None
