"""Wrapped attention functions and how they are registered with Transformers.

Transformers looks up an attention function, and the function that builds its mask, by the name in
``config._attn_implementation``. PEML registers one wrapper per implementation (``peml_sdpa`` for
``sdpa``, ``peml_eager`` for ``eager``). The wrapper has no state: it calls the *slot* of the
attention module, or the original implementation if the module has no slot. Packed rows (an argument
that models pass on unchanged) are laid side by side before.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peml.injection.masks import causal_mask
from peml.injection.shared import Shared, attend_shared

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""``(module, query, key, value, attention_mask, **kwargs) -> (output, weights or None)``.

* query: (batch, query_heads, query_length, head_dim), after rotation.
* key, value: (batch, kv_heads, key_length, head_dim), after rotation and the cache.
* attention_mask: boolean or additive, broadcastable to (batch, 1, query_length, key_length), or
  None.
* kwargs: ``scaling``, ``dropout``, ``is_causal``, ``position_bias``, ...
* output: (batch, query_length, query_heads, head_dim).
"""

IMPLEMENTATIONS = ("eager", "sdpa")
"""Attention implementations that can take a prefix."""

WRAPPER_PREFIX = "peml_"
PACKED = "packed_rows"
"""Argument of a model's forward pass that holds `PackedRows`."""
_SLOT = "_peml_slot"


def get_slot(module: nn.Module) -> AttentionFunction | None:
    """The function that an attention module calls instead of its attention function, or None."""
    return module.__dict__.get(_SLOT)


def set_slot(module: nn.Module, slot: AttentionFunction | None) -> None:
    """Sets or removes (None) a module's slot, which is not in the module's ``state_dict``."""
    if slot is None:
        module.__dict__.pop(_SLOT, None)
    else:
        module.__dict__[_SLOT] = slot


def register_wrapper(base: str) -> str:
    """Registers the wrapper of one implementation if needed, and returns its name.

    The mask function is registered under the same name. Without one, Transformers passes no mask
    and padding would silently be attended to.
    """
    name = f"{WRAPPER_PREFIX}{base}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attend, base))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def leave_out_of_graphs() -> None:
    """Lets `torch.compile` end its graphs at calls of the wrappers registered so far.

    Slots read the prefix, the contexts and the masks of the current batch, which change between
    calls; a graph would treat them as constants.
    """
    for base in IMPLEMENTATIONS:
        name = f"{WRAPPER_PREFIX}{base}"
        if name in ALL_ATTENTION_FUNCTIONS:
            AttentionInterface.register(name, torch.compiler.disable(partial(_attend, base)))


def base_attention(module: nn.Module, base: str) -> AttentionFunction:
    """The attention function a module would have called under ``base``, faster on CPUs for sdpa.

    ``eager`` is not in the registry: each model file has its own (with soft caps, biases, ...).
    So the name is looked up where the module's ``forward`` looks it up.

    Raises:
        NotImplementedError: The module has no such function.
    """
    scope = inspect.unwrap(type(module).forward).__globals__
    if base == "eager":
        function = scope.get("eager_attention_forward")
    else:
        function = scope.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS).get(base)
    if function is None:
        raise NotImplementedError(f"{type(module).__name__} has no {base!r} attention function")
    return partial(sdpa_on_cpu, function) if base == "sdpa" else cast(AttentionFunction, function)


def sdpa_on_cpu(
    function: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """``sdpa`` as `function` computes it, or by `attend_shared` where that is faster.

    That is in training on a CPU: with dropout, and in bfloat16.
    """
    dropout = kwargs.get("dropout", 0.0)
    causal = attention_mask is None and query.shape[2] > 1 and masks_causally(module, kwargs)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    if (
        query.device.type != "cpu"
        or not (0 < dropout < 1 or (learns and not dropout and value.dtype == torch.bfloat16))
        or query.shape[3] != value.shape[3]
        or (causal and key.shape[2] != query.shape[2])
        or kwargs.get("position_bias") is not None
        or (attention_mask is not None and attention_mask.requires_grad)
    ):
        return function(module, query, key, value, attention_mask, **kwargs)
    scaling = kwargs.get("scaling")
    output = attend_shared(
        query,
        key,
        value,
        attention_mask,
        [Shared(len(query))],
        scaling=query.shape[3] ** -0.5 if scaling is None else scaling,
        causal=causal,
        dropout=dropout,
    )
    return output, None


def masks_causally(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether sdpa, if it gets no mask, builds a causal one for this call."""
    flag = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if flag is None else flag)


def _attend(
    base: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    attend = get_slot(module) or base_attention(module, base)
    packed = kwargs.pop(PACKED, None)
    if packed is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    # (1, heads, tokens, head_dim) -> (rows, heads, length, head_dim)
    query, key, value = (
        packed.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)
    )
    mask = _mask_of_rows(base, module, query, attention_mask, kwargs)
    output, _ = attend(module, query, key, value, mask, **kwargs)
    return packed.pack(output), None


def _mask_of_rows(
    base: str, module: nn.Module, query: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor | None:
    """The mask of packed rows after they were laid side by side, padded on the right.

    With causal attention, no token of a row sees the padding after it, so sdpa needs no mask.
    """
    if masks_causally(module, kwargs):
        length = query.shape[2]
        window = kwargs.get("sliding_window") or getattr(module, "sliding_window", None) or length
        if base == "sdpa" and length <= window:
            return None
        mask = causal_mask(length, 0, query.device, window)
    if mask is None or base == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(query.dtype).min
    )
