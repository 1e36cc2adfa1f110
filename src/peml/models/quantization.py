"""Frozen models whose linear layers are stored in 8 or 4 bits.

Transformers and bitsandbytes quantise the layers while the weights are loaded; checkpoints that
are quantised already (bitsandbytes, GPTQ, AWQ) are loaded as they are.
"""

import logging
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from peml.errors import ModelError
from peml.models.settings import ModelSettings

_READ = ("bitsandbytes", "gptq", "awq")
"""Quantisation methods of checkpoints that can be loaded."""


def quantization_of(settings: ModelSettings, config: dict[str, Any]) -> str | None:
    """The format of a model's linear layers; None for plain weights.

    Raises:
        ModelError: The format is unknown, or a quantised checkpoint would be quantised again.
    """
    stored = config.get("quantization_config")
    if not isinstance(stored, dict):
        return settings.quantization
    method = str(stored.get("quant_method"))
    if method not in _READ:
        raise ModelError(
            f"model {settings.name!r} is quantised by {method!r}",
            allowed=f"plain weights, or a checkpoint of {', '.join(_READ)}",
            action="use the model's original weights, with model.quantization if they are too "
            "large",
        )
    if settings.quantization is not None:
        raise ModelError(
            f"model.quantization is {settings.quantization}, but model {settings.name!r} is "
            f"quantised already ({method})",
            allowed="model.quantization for plain weights",
            action="leave out model.quantization",
        )
    return method


def check_quantization(settings: ModelSettings, device: torch.device | None = None) -> None:
    """Raises a ModelError if bitsandbytes is missing or can't compute on the device.

    Without a device, only the library is looked for.
    """
    if settings.quantization is None:
        return
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {settings.quantization}, and bitsandbytes is not installed",
            allowed="model.quantization where bitsandbytes is",
            action="pip install 'peml[quantization]', or leave out model.quantization",
        )
    if device is None:
        return
    try:
        layer = _tiny_layer(settings.quantization).to(device)
        layer(torch.ones(2, 64, device=device))
    except (AttributeError, NotImplementedError, OSError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ModelError(
            f"model.quantization is {settings.quantization}, and bitsandbytes can't compute on "
            f"{device.type}: {reason}",
            allowed="a device that bitsandbytes has kernels for",
            action="leave out model.quantization, or use another device or version of bitsandbytes",
        ) from error


def _tiny_layer(quantization: str) -> nn.Module:
    import bitsandbytes

    kinds = bitsandbytes.nn
    layer: nn.Module = (
        kinds.Linear8bitLt(64, 64, has_fp16_weights=False)
        if quantization == "int8"
        else kinds.Linear4bit(64, 64, quant_type="nf4")
    )
    return layer


def loading_options(
    settings: ModelSettings, stored: str | None, device: torch.device
) -> dict[str, Any]:
    """Options of ``from_pretrained`` for quantised weights; none for plain ones.

    The layers are quantised on the device where they are used; some can't be moved later.
    """
    if stored is None:
        return {}
    options: dict[str, Any] = {"device_map": {"": device}}
    if settings.quantization is None:
        return options
    if settings.quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        )
    return {**options, "quantization_config": config}


def _is_of_bitsandbytes(module: nn.Module) -> bool:
    library = sys.modules.get("bitsandbytes")  # without it, there is no such layer
    kinds = () if library is None else (library.nn.Linear8bitLt, library.nn.Linear4bit)
    return isinstance(module, kinds)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is a linear layer with quantised weights."""
    if _is_of_bitsandbytes(module):
        return True
    packed = getattr(module, "qweight", None)  # GPTQ, AWQ
    sizes = (getattr(module, name, None) for name in ("in_features", "out_features"))
    return isinstance(packed, Tensor) and all(isinstance(size, int) for size in sizes)


def settle_quantized(model: nn.Module, name: str) -> None:
    """Prepares a quantised model after loading.

    Raises:
        ModelError: A layer was transposed before it was quantised.
    """
    # It would warn for each layer and batch that 8-bit products are computed in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for path, module in model.named_modules():
        if not is_quantized(module):
            continue
        if getattr(module, "source_cls", None) is Conv1D:
            raise ModelError(
                f"{path} of model {name!r} is a Conv1D, whose quantised weights can't be merged",
                allowed="models of linear layers",
                action="leave out model.quantization, or choose another model",
            )
        # In an evaluation on such a CPU the layer packs its weights again, for a kernel without
        # gradients: later training steps would get none for the layers below.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def count_parameters(model: nn.Module) -> int:
    """Number of a model's weights; quantised layers count as before quantisation."""
    layers = [module for module in model.modules() if is_quantized(module)]
    packed = {id(parameter) for layer in layers for parameter in layer.parameters()}
    count = sum(each.numel() for each in model.parameters() if id(each) not in packed)
    for layer in layers:
        d_out, d_in = sizes(layer)
        bias = getattr(layer, "bias", None)
        count += d_out * d_in + (0 if bias is None else int(bias.numel()))
    return count


def sizes(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a quantised layer, whatever shape its packed weight has."""
    return int(layer.out_features), int(layer.in_features)


@torch.no_grad()
def dense_weight(module: nn.Module) -> Tensor:
    """The weight that a layer computes with, (d_out, d_in)."""
    if _is_of_bitsandbytes(module):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        weight: Tensor = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
        return weight
    if not is_quantized(module):
        return module.get_parameter("weight")
    # For any format: the layer's outputs for unit vectors are its weight.
    size: Any = module.in_features
    scales = next(each for each in module.buffers() if each.is_floating_point())
    answers: Tensor = module(torch.eye(size, dtype=scales.dtype, device=scales.device))
    bias = getattr(module, "bias", None)
    return (answers if bias is None else answers - bias).T.contiguous()


@torch.no_grad()
def dequantize(model: Any) -> None:
    """Replaces the quantised layers by plain float32 layers, on the CPU."""
    for path, module in list(model.named_modules()):
        if is_quantized(module):
            bias = getattr(module, "bias", None)
            plain = nn.Linear(module.in_features, module.out_features, bias is not None, "meta")
            plain.weight = nn.Parameter(dense_weight(module).float().cpu(), requires_grad=False)
            if bias is not None:
                plain.bias = nn.Parameter(bias.detach().float().cpu(), requires_grad=False)
            model.set_submodule(path, plain)
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_8bit = model.is_loaded_in_4bit = False
    model.cpu().float()


def free_quantized(model: nn.Module) -> None:
    """Frees quantised layers, which can't move to the meta device; the model is unusable then."""
    for module in model.modules():
        if is_quantized(module):
            module._parameters.clear()
            module._buffers.clear()
            module.__dict__.pop("state", None)  # holds the weights of 8 bits once more
