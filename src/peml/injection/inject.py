"""Puts a prefix in front of every self-attention layer of a model.

    K' = [P_K ; K]    V' = [P_V ; V]

Positions of the tokens do not move, the key/value cache holds real tokens only, and a sliding
window never hides the prefix. Beside the prefix, which all rows share, each task can have a context
(`Contexts`), which its rows share.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peml.errors import InjectionError
from peml.injection.attention import (
    AttentionFunction,
    base_attention,
    get_slot,
    masks_causally,
    register_wrapper,
    set_slot,
)
from peml.injection.contexts import Contexts
from peml.injection.masks import MaskMemo
from peml.injection.probe import AttentionSite, switch_implementation, unwrap
from peml.injection.shared import attend_shared
from peml.injection.support import check_support
from peml.prefix.prefix import Prefix
from peml.prefix.shape import PrefixShape
from peml.switch import Switch

Observer = Callable[[int, Tensor, Tensor, Tensor, Tensor | None], None]
"""``(layer, query, key, value, attention_mask)`` of a self-attention call, before the prefix."""


class PrefixInjection:
    """A model's connection to its prefix; made by ``attach_prefix``.

    In each training step: ``injection.set(network())``, forward, backward. Keep the prefix set
    until backward has finished, since gradient checkpointing runs layers again.

    The injection is stored in slots of the model's attention modules. So a deep copy or a pickle of
    the model has its own injection, with a detached prefix; ``injection_of`` finds it.

    Attributes:
        model: The Transformers model, without PEFT's wrapper.
        sites: The self-attention modules in call order, one per layer of the prefix.
        shape: Layers, heads and channels a prefix must have.
        observer: If set, called with each self-attention call; see `observed`.
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
        self._switch = Switch()
        self._contexts: Contexts | None = None
        self._context_switch = Switch()
        self._attached = True
        self._configs = [m.config for m in self.model.modules() if isinstance(m, PreTrainedModel)]
        self._watch = self.model.base_model.register_forward_pre_hook(self._refuse_bypass)
        self.masks = MaskMemo()
        self.biases = MaskMemo()

    @property
    def prefix(self) -> Prefix | None:
        """The prefix in use; None if none is set, and inside ``disabled()``."""
        return self._prefix if self._switch.is_on else None

    def set(self, prefix: Prefix | None) -> None:
        """Uses this prefix, or none, from the next forward pass on.

        Raises:
            InjectionError: The shape doesn't fit the model, or the injection was detached.
        """
        if not self._attached:
            raise InjectionError(
                "this injection was detached from its model",
                allowed="an attached injection",
                action="call attach_prefix(model) again",
            )
        if prefix is not None:
            layers, _, kv_heads, _, head_dim = prefix.tensor.shape
            if PrefixShape(layers, kv_heads, head_dim) != self.shape:
                raise InjectionError(
                    f"prefix of shape {tuple(prefix.tensor.shape)} doesn't fit the model",
                    allowed=f"({self.shape.layers}, 2, {self.shape.kv_heads}, prefix_length, "
                    f"{self.shape.head_dim})",
                    action="build the prefix from injection.shape of this model",
                )
        self._prefix = prefix

    def disabled(self) -> AbstractContextManager[None]:
        """Runs the model without its prefix inside the block."""
        return self._switch.off()

    @property
    def contexts(self) -> Contexts | None:
        """The contexts in use; None if none are set, and inside ``without_contexts()``."""
        return self._contexts if self._context_switch.is_on else None

    def contexts_in(self, layer: int) -> Contexts | None:
        """The contexts that a layer's rows see; None if there are none."""
        contexts = self.contexts
        return contexts if contexts is not None and contexts.reach(layer) else None

    def set_contexts(self, contexts: Contexts | None) -> None:
        """Uses these contexts, or none, from the next forward pass on."""
        self._contexts = contexts

    def without_contexts(self) -> AbstractContextManager[None]:
        """Runs the model without contexts inside the block."""
        return self._context_switch.off()

    @contextmanager
    def observed(self, observer: Observer, *, gradients: bool = False) -> Iterator[None]:
        """Calls ``observer`` with each self-attention call; without prefix and contexts."""
        self.observer = observer
        grad = torch.is_grad_enabled() and gradients
        try:
            with self.disabled(), self.without_contexts(), torch.set_grad_enabled(grad):
                yield
        finally:
            self.observer = None

    def detach(self) -> None:
        """Restores the model as it was before ``attach_prefix``. Safe to call twice."""
        if not self._attached:
            return
        for module in self.model.modules():
            slot = get_slot(module)
            if isinstance(slot, _PrefixSlot) and slot.injection is self:
                set_slot(module, None)
        self._watch.remove()
        switch_implementation(self.model, self._base)
        self._prefix = self._contexts = None
        self._attached = False

    def _refuse_bypass(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Refuses a forward pass whose attention would ignore prefix and contexts.

        Raises:
            InjectionError: Another implementation was set, by `set_attn_implementation` or by a
                model made from the same config object.
        """
        if self.prefix is None and self.contexts is None and self.observer is None:
            return
        names = {str(config._attn_implementation) for config in self._configs}
        for name in sorted(names - {register_wrapper(self._base)}):
            raise InjectionError(
                f"the model's attention implementation has become {name!r} since the prefix was "
                "attached, and would leave prefix and contexts out",
                allowed=f"{register_wrapper(self._base)!r}, as attach_prefix set it",
                action="set the implementation before attach_prefix, and give each model a config "
                "object of its own",
            )

    def __getstate__(self) -> dict[str, Any]:
        """State for ``copy.deepcopy`` and pickle, which can't copy tensors inside a graph."""
        prefix = None if self._prefix is None else self._prefix.detached()
        cleared = {"observer": None, "masks": MaskMemo(), "biases": MaskMemo()}
        return {**self.__dict__, **cleared, "_prefix": prefix}


@dataclass(eq=False)
class _PrefixSlot:
    """The slot of one self-attention module: adds the prefix to the keys and values."""

    injection: PrefixInjection
    layer: int
    function: AttentionFunction
    sdpa: bool

    def __call__(
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
            injection.observer(self.layer, query, key, value, attention_mask)
        prefix, contexts = injection.prefix, injection.contexts_in(self.layer)
        pair = None if prefix is None else prefix.layer(self.layer)
        if pair is None and contexts is None:
            return self.function(module, query, key, value, attention_mask, **kwargs)

        bias = kwargs.get("position_bias")
        # Without a mask sdpa builds a causal one and cuts the keys to the query length: with a
        # prefix in front it would drop the last tokens. Without a mask the queries are the first
        # tokens; keys after them are unused entries of a static cache.
        causal = (
            attention_mask is None
            and self.sdpa
            and query.shape[2] > 1
            and masks_causally(module, kwargs)
        )
        if causal:
            queries = query.shape[2]
            key, value = key[:, :, :queries], value[:, :, :queries]
            bias = None if bias is None else bias[..., :queries]
        if pair is not None:
            length = pair[0].shape[1]
            if causal:
                attention_mask = injection.masks.causal(
                    query.shape[2], length, query.device, query.dtype
                )
                causal = False
            elif attention_mask is not None:
                attention_mask = injection.masks.padded(attention_mask, length)
            if bias is not None:
                kwargs["position_bias"] = injection.biases.padded(bias, length)
            key, value = _in_front(pair[0], key), _in_front(pair[1], value)
        if contexts is not None:
            scaling = kwargs.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            dropout = kwargs.get("dropout", 0.0)
            output = self._with_contexts(
                contexts, query, key, value, attention_mask, scaling, causal, dropout
            )
            alone = partial(self.function, module, query, key, value, attention_mask, **kwargs)
            return _mixed(contexts.gate(self.layer), output, alone), None
        return self.function(module, query, key, value, attention_mask, **kwargs)

    def _with_contexts(
        self,
        contexts: Contexts,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        causal: bool,
        dropout: float,
    ) -> Tensor:
        order = contexts.order(len(query))
        shared = contexts.layer(self.layer, order, value)
        if order.order is not None:
            query, key, value = (t.index_select(0, order.order) for t in (query, key, value))
            if mask is not None and len(mask) > 1:
                mask = mask.index_select(0, order.order)
        output = attend_shared(
            query, key, value, mask, shared, scaling=scaling, causal=causal, dropout=dropout
        )
        return output if order.back is None else output.index_select(0, order.back)


def _mixed(
    gate: Tensor | None, output: Tensor, alone: Callable[[], tuple[Tensor, Tensor | None]]
) -> Tensor:
    """Mixes attention with and without contexts, if a search weighs them."""
    if gate is None:
        return output
    return torch.lerp(alone()[0].to(output.dtype), output, gate.to(output.dtype))


def _in_front(prefix: Tensor, states: Tensor) -> Tensor:
    """(kv_heads, n, d) in front of (batch, kv_heads, length, d), in the dtype of the latter."""
    rows = prefix.to(device=states.device, dtype=states.dtype)[None]
    return torch.cat([rows.expand(states.shape[0], -1, -1, -1), states], dim=2)


def attach_prefix(model: nn.Module) -> PrefixInjection:
    """Prepares a model to take a prefix; its output is unchanged until a prefix is set.

    The model may be wrapped by PEFT; its attention is ``sdpa`` or ``eager``.

    Raises:
        InjectionError: The model can't take a prefix, or has an injection already.
    """
    model = unwrap(model)
    if injection_of(model) is not None:
        raise InjectionError(
            f"{type(model).__name__} has a prefix injection already",
            allowed="one injection per model",
            action="use injection_of(model), or detach() it first",
        )
    support = check_support(model)
    if not support.ok or support.shape is None:
        raise InjectionError(
            f"{type(model).__name__} can't take a prefix: {support.reason}",
            allowed="models that use Transformers' attention interface",
            action=support.action,
        )
    sites = tuple(site for site in support.sites if site.kind == "self")
    injection = PrefixInjection(model, sites, support.shape, support.implementation)
    for layer, site in enumerate(sites):
        function = base_attention(site.module, support.implementation)
        sdpa = support.implementation == "sdpa"
        set_slot(site.module, _PrefixSlot(injection, layer, function, sdpa))
    switch_implementation(model, register_wrapper(support.implementation))
    return injection


def injection_of(model: nn.Module) -> PrefixInjection | None:
    """The injection attached to a model (or to the model it was copied from), or None."""
    for module in model.modules():
        slot = get_slot(module)
        if isinstance(slot, _PrefixSlot):
            return slot.injection
    return None
