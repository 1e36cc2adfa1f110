"""The wrapped attention functions, and their place in Transformers' registries.

Transformers looks an attention function up by the name in ``config._attn_implementation`` and the
function that builds its mask under the same name. PEML registers one wrapper for each
implementation it knows (``peml_sdpa`` for ``sdpa``, ``peml_eager`` for ``eager``). The wrapper
itself holds nothing: it asks the attention module's *slot* what to do, and calls the wrapped
implementation unchanged where there is none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""``(module, query, key, value, attention_mask, **kwargs) -> (output, weights or None)``."""

IMPLEMENTATIONS = ("eager", "sdpa")
"""Attention implementations a prefix can be put in front of."""

_NAME = "peml_"
_SLOT = "_peml_slot"


class AttentionSlot(Protocol):
    """What an attention module does instead of plain attention."""

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Called in place of the attention function; arguments as Transformers gives them.

        Args:
            module: The attention module.
            query: (batch, query_heads, query_length, head_dim), after rotation.
            key: (batch, kv_heads, key_length, head_dim), after rotation and the cache.
            value: As ``key``.
            attention_mask: Boolean or additive, broadcastable to (batch, 1, query_length,
                key_length), or None.
            **kwargs: ``scaling``, ``dropout``, ``is_causal``, ``position_bias``, ...

        Returns:
            Output (batch, query_length, query_heads, head_dim), and weights or None.
        """


def get_slot(module: nn.Module) -> AttentionSlot | None:
    """The slot of an attention module, or None."""
    return module.__dict__.get(_SLOT)


def set_slot(module: nn.Module, slot: AttentionSlot | None) -> None:
    """Puts a slot on a module or takes it away; it is no part of the module's ``state_dict``."""
    if slot is None:
        module.__dict__.pop(_SLOT, None)
    else:
        module.__dict__[_SLOT] = slot


def base_name(implementation: str) -> str:
    """The implementation behind a name: ``peml_sdpa`` and ``sdpa`` both give ``sdpa``."""
    return implementation.removeprefix(_NAME)


def register_wrapper(base: str) -> str:
    """Registers the wrapper of one implementation, once, and returns its name.

    The mask function goes under the same name: Transformers passes no mask at all to an
    implementation it has no mask function for, and padding would be attended to in silence.
    """
    name = f"{_NAME}{base}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attend, base))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def base_attention(module: nn.Module, base: str) -> AttentionFunction | None:
    """The attention function a module would have called under ``base``, or None.

    ``eager`` is not in the registry: each model file has its own (with soft caps, biases, ...).
    So the name is looked up where the module's ``forward`` looks it up.
    """
    scope = inspect.unwrap(type(module).forward).__globals__
    if base == "eager":
        return scope.get("eager_attention_forward")
    interface = scope.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    return interface.get(base)


def _attend(
    base: str, module: nn.Module, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    slot = get_slot(module)
    if slot is not None:
        return slot.attend(module, *args, **kwargs)
    function = base_attention(module, base)
    if function is None:
        raise LookupError(f"{type(module).__name__} has no {base!r} attention function")
    return function(module, *args, **kwargs)
