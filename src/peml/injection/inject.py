"""Puts a prefix in front of every self-attention layer of a model.

    K' = [P_K ; K]    V' = [P_V ; V]

Positions of the tokens do not move, the key/value cache holds real tokens only, and a sliding
window never hides the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peml.errors import InjectionError
from peml.injection.attention import (
    AttentionFunction,
    base_attention,
    get_slot,
    register_wrapper,
    set_slot,
)
from peml.injection.dense import attend_densely
from peml.injection.masks import MaskMemo
from peml.injection.probe import AttentionSite, switch_implementation, unwrap
from peml.injection.support import check_support
from peml.prefix.prefix import Prefix, PrefixShape

Observer = Callable[[int, Tensor, Tensor, Tensor, Tensor | None], None]
"""``(layer, query, key, value, attention_mask)`` of a self-attention call, before the prefix."""


class PrefixInjection:
    """A model's connection to its prefix; made by ``attach_prefix``.

    In a training loop, once a step: ``injection.set(network())``, forward, backward. The prefix has
    to stay set until backward is through, since gradient checkpointing runs layers again.

    It lives on the model (in slots of its attention modules), so a deep copy or a pickle of the
    model has one of its own, with the prefix cut from the graph; ``injection_of`` finds it.

    Attributes:
        model: The Transformers model itself.
        sites: The self-attention modules, in call order; the prefix's layers.
        shape: Layers, heads and channels a prefix must have.
        observer: Called with each self-attention call while set; ``measure_start`` uses it.
    """

    def __init__(
        self, model: nn.Module, sites: tuple[AttentionSite, ...], shape: PrefixShape, base: str
    ) -> None:
        self.sites = sites
        self.shape = shape
        self.observer: Observer | None = None
        self.model = unwrap(model)
        self._base = base
        self._prefix: Prefix | None = None
        self._enabled = True
        self._attached = True
        self.masks = MaskMemo()
        self.biases = MaskMemo()

    @property
    def prefix(self) -> Prefix | None:
        """The prefix in use; None where none is set or inside ``disabled()``."""
        return self._prefix if self._enabled else None

    def set(self, prefix: Prefix | None) -> None:
        """Uses this prefix from the next forward pass on; None for none.

        Raises:
            InjectionError: If its shape doesn't fit the model, or after ``detach``.
        """
        if not self._attached:
            raise InjectionError(
                "this injection was detached from its model",
                allowed="an attached injection",
                action="call attach_prefix(model) again",
            )
        if prefix is not None:
            layers, _, kv_heads, _, head_dim = prefix.tensor.shape
            if (layers, kv_heads, head_dim) != (
                self.shape.layers,
                self.shape.kv_heads,
                self.shape.head_dim,
            ):
                raise InjectionError(
                    f"prefix of shape {tuple(prefix.tensor.shape)} doesn't fit the model",
                    allowed=f"({self.shape.layers}, 2, {self.shape.kv_heads}, prefix_length, "
                    f"{self.shape.head_dim})",
                    action="build the prefix from injection.shape of this model",
                )
        self._prefix = prefix

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model without its prefix, for the length of the block."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def detach(self) -> None:
        """Gives the model back as it was before ``attach_prefix``. Calling it twice is fine."""
        if not self._attached:
            return
        for module in self.model.modules():
            slot = get_slot(module)
            if isinstance(slot, _PrefixSlot) and slot.injection is self:
                set_slot(module, None)
        self.model.set_attn_implementation(self._base)
        self._prefix = None
        self._attached = False

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy`` and pickle, which can't take tensors inside a graph."""
        state = dict(self.__dict__)
        prefix = self._prefix
        state.update(
            _prefix=None if prefix is None else prefix.detached(),
            observer=None,
            masks=MaskMemo(),
            biases=MaskMemo(),
        )
        return state


class _PrefixSlot:
    """What one self-attention module knows: its injection, its layer, the function it wraps."""

    def __init__(
        self,
        injection: PrefixInjection,
        layer: int,
        function: AttentionFunction,
        *,
        masks_itself: bool,
    ) -> None:
        self.injection = injection
        self._layer = layer
        self._function = function
        self._masks_itself = masks_itself

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        injection = self.injection
        if injection.observer is not None:
            injection.observer(self._layer, query, key, value, attention_mask)
        prefix = injection.prefix
        pair = None if prefix is None else prefix.layer(self._layer)
        if pair is None:
            return self._function(module, query, key, value, attention_mask, **kwargs)

        length = pair[0].shape[1]
        bias = kwargs.get("position_bias")
        if attention_mask is not None:
            attention_mask = injection.masks.padded(attention_mask, length)
        elif self._masks_itself and self._is_causal(module, query, kwargs):
            # sdpa would build a causal mask of its own and cut the keys to the query length: with
            # a prefix in front it would drop the last tokens. Without a mask the queries are the
            # first tokens; keys after them are empty places of a static cache.
            queries = query.shape[2]
            attention_mask = injection.masks.causal(queries, length, query.device)
            key, value = key[:, :, :queries], value[:, :, :queries]
            if bias is not None:
                bias = bias[..., :queries]
        if bias is not None:
            kwargs["position_bias"] = injection.biases.padded(bias, length)
        key, value = _in_front(pair[0], key), _in_front(pair[1], value)
        if self._has_no_kernel(query, kwargs):
            scaling = kwargs.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            dropout = kwargs["dropout"]
            mask = attention_mask
            output = attend_densely(query, key, value, mask, scaling=scaling, dropout=dropout)
            return output, None
        return self._function(module, query, key, value, attention_mask, **kwargs)

    def _has_no_kernel(self, query: Tensor, kwargs: dict[str, Any]) -> bool:
        """Whether sdpa would compute attention the slow way: on a CPU, with dropout."""
        dropout = kwargs.get("dropout", 0.0)
        biased = kwargs.get("position_bias") is not None
        return self._masks_itself and query.device.type == "cpu" and 0 < dropout < 1 and not biased

    @staticmethod
    def _is_causal(module: nn.Module, query: Tensor, kwargs: dict[str, Any]) -> bool:
        """Whether sdpa, given no mask, would mask causally."""
        flag = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if flag is None else flag
        return bool(causal) and query.shape[2] > 1


def _in_front(prefix: Tensor, states: Tensor) -> Tensor:
    """(kv_heads, n, d) in front of (batch, kv_heads, length, d), in the dtype of the latter."""
    rows = prefix.to(device=states.device, dtype=states.dtype)[None]
    return torch.cat([rows.expand(states.shape[0], -1, -1, -1), states], dim=2)


def attach_prefix(model: nn.Module) -> PrefixInjection:
    """Makes a model ready to take a prefix; until one is set it computes what it did before.

    Args:
        model: A Transformers model, bare or wrapped by PEFT, with ``sdpa`` or ``eager`` attention.

    Raises:
        InjectionError: If the model can't take a prefix, or has an injection already.
    """
    model = unwrap(model)
    if injection_of(model) is not None:
        raise InjectionError(
            f"{type(model).__name__} has a prefix injection already",
            allowed="one injection a model",
            action="use injection_of(model), or detach() it first",
        )
    support = check_support(model)
    if not support.ok or support.shape is None:
        raise InjectionError(
            f"no prefix can be put in front of {type(model).__name__}: {support.reason}",
            allowed="models that attend through Transformers' attention interface",
            action=support.action,
        )
    sites = tuple(site for site in support.sites if site.kind == "self")
    injection = PrefixInjection(model, sites, support.shape, support.implementation)
    for layer, site in enumerate(sites):
        function = base_attention(site.module, support.implementation)
        if function is None:
            raise AssertionError("the probe called an attention function that is gone")
        masks_itself = support.implementation == "sdpa"
        set_slot(site.module, _PrefixSlot(injection, layer, function, masks_itself=masks_itself))
    switch_implementation(model, register_wrapper(support.implementation))
    return injection


def injection_of(model: nn.Module) -> PrefixInjection | None:
    """The injection attached to a model (or to the model it was copied from), or None."""
    for module in model.modules():
        slot = get_slot(module)
        if isinstance(slot, _PrefixSlot):
            return slot.injection
    return None
