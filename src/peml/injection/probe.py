"""Finds a model's attention modules by watching one tiny forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peml.errors import InjectionError
from peml.injection.attention import (
    IMPLEMENTATIONS,
    base_attention,
    base_name,
    get_slot,
    register_wrapper,
    set_slot,
)

# Different lengths, so that cross-attention shows: its keys are the encoder's.
_TOKENS = 7
_DECODER_TOKENS = 5

_KNOWN_BIASES = frozenset({"position_bias"})


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One module that attends, as seen when it was called.

    Attributes:
        name: Path of the module in the model.
        module: The module itself.
        kind: ``self`` (keys of its own sequence) or ``cross`` (keys of the encoder).
        causal: Whether a token sees only what precedes it.
        query_heads: Heads of the queries.
        kv_heads: Heads of keys and values; fewer under grouped-query attention.
        head_dim: Channels of one key.
        value_dim: Channels of one value; the same in nearly all models.
        scaling: Factor of the dot products (1 in T5).
        sliding_window: Tokens a query sees, or None for all.
        unknown_inputs: Names of further per-key inputs, which a prefix would not fit.
    """

    name: str
    module: nn.Module
    kind: Literal["self", "cross"]
    causal: bool
    query_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    scaling: float
    sliding_window: int | None
    unknown_inputs: tuple[str, ...] = ()


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The Transformers model itself, out of PEFT's wrapper.

    Raises:
        InjectionError: If it is not a Transformers model.
    """
    get_base_model = getattr(model, "get_base_model", None)
    inner = model if get_base_model is None else get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise InjectionError(
            f"{type(inner).__name__} is not a Transformers model",
            allowed="a PreTrainedModel, bare or wrapped by PEFT",
            action="pass the model itself, not a pipeline, head or compiled wrapper",
        )
    return inner


def implementation_of(model: PreTrainedModel) -> str:
    """Name of the attention implementation behind the model (``sdpa`` for ``peml_sdpa``).

    Raises:
        InjectionError: If parts differ, or if no prefix can be put in front of it.
    """
    configs = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    names = sorted({base_name(str(config._attn_implementation)) for config in configs})
    if len(names) > 1 or names[0] not in IMPLEMENTATIONS:
        raise InjectionError(
            f"attention implementation {' and '.join(map(repr, names))} can't take a prefix",
            allowed=", ".join(map(repr, IMPLEMENTATIONS)) + ", the same in all parts",
            action="call model.set_attn_implementation('sdpa') first, "
            "or load the model with attn_implementation='sdpa'",
        )
    return names[0]


def probe(model: nn.Module) -> list[AttentionSite]:
    """Runs one tiny forward pass and lists who attended, in call order.

    A module called several times (layers that share weights) is listed once. The model is left as
    it was: implementation, slots, training flags, random state.

    Raises:
        InjectionError: If the model's attention does not go through Transformers' interface, or
            the model can't be run on a few token ids.
    """
    inner = unwrap(model)
    base = implementation_of(inner)
    if not type(inner)._can_set_attn_implementation():
        raise InjectionError(
            f"{type(inner).__name__} does not attend through Transformers' attention interface",
            allowed="models whose attention implementation can be set by name",
            action="use another base model; adapters of the weights (LoRA) still work on this one",
        )
    # Without the head: some heads want an end token, or labels, or equal lengths.
    with _recording(inner, base) as recorder:
        _run(inner.base_model)
    if not recorder.sites:
        raise InjectionError(
            f"{type(inner).__name__} made no attention call",
            allowed="models with attention through Transformers' attention interface",
            action="use another base model; a prefix of keys and values needs attention layers",
        )
    return list(recorder.sites.values())


def probe_decoder_side(model: nn.Module, paths: Iterable[str]) -> frozenset[str]:
    """Which modules work on the decoder's tokens in an encoder-decoder; none in other models.

    A decoder's cross-attention reads both sides, so where a module stands doesn't tell. One tiny
    forward pass with a shorter decoder side does.

    Args:
        model: A Transformers model.
        paths: Modules whose input is (..., length, channels). What isn't part of the body, as the
            output layer, follows the decoder.

    Raises:
        InjectionError: The model can't be run on a few token ids.
    """
    inner = unwrap(model)
    if not inner.config.is_encoder_decoder:
        return frozenset()
    lengths: dict[str, int] = {}

    def note(path: str, module: nn.Module, inputs: Any) -> None:
        lengths[path] = inputs[0].numel() // inputs[0].shape[-1]

    paths = list(paths)
    modules = [(path, inner.get_submodule(path)) for path in paths]
    hooks = [module.register_forward_pre_hook(partial(note, path)) for path, module in modules]
    training = [module for module in inner.modules() if module.training]
    inner.eval()
    try:
        _run(inner.base_model)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return frozenset(path for path in paths if lengths.get(path, _DECODER_TOKENS) != _TOKENS)


@torch.no_grad()
def _run(body: PreTrainedModel) -> None:
    try:
        body(**_tiny_inputs(body))
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        raise InjectionError(
            f"{type(body).__name__} can't be run on a few token ids: {error}",
            allowed="a text model on a real device, called with input_ids",
            action="load its weights, or pass the text part of the model",
        ) from error


def switch_implementation(model: PreTrainedModel, name: str) -> None:
    """Sets the attention implementation, and makes sure that every part follows.

    Raises:
        InjectionError: If a module reads it from a config that is not the model's.
    """
    model.set_attn_implementation(name)
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", name) != name:
            raise InjectionError(
                f"{path} of {type(model).__name__} does not follow the model's config",
                allowed="modules that take their attention implementation from the model's config",
                action="give the module the model's config, or use the model as it was loaded",
            )


class _Recorder:
    """The slot of all modules during the probe: notes the call and attends as before."""

    def __init__(self, model: nn.Module, base: str) -> None:
        self.sites: dict[int, AttentionSite] = {}
        self._base = base
        self._names = {id(module): name for name, module in model.named_modules()}

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        function = base_attention(module, self._base)
        if function is None:
            raise NotImplementedError(
                f"{type(module).__name__} has no {self._base!r} attention function to wrap"
            )
        window = kwargs.get("sliding_window") or getattr(module, "sliding_window", None)
        site = AttentionSite(
            name=self._names[id(module)],
            module=module,
            kind="self" if key.shape[2] == query.shape[2] else "cross",
            causal=_is_causal(module, attention_mask, kwargs, self._base),
            query_heads=query.shape[1],
            kv_heads=key.shape[1],
            head_dim=key.shape[3],
            value_dim=value.shape[3],
            scaling=float(kwargs.get("scaling") or query.shape[3] ** -0.5),
            sliding_window=window,
            unknown_inputs=_unknown_inputs(kwargs, key.shape[2]),
        )
        self.sites.setdefault(id(module), site)
        return function(module, query, key, value, attention_mask, **kwargs)


def _is_causal(module: nn.Module, mask: Tensor | None, kwargs: dict[str, Any], base: str) -> bool:
    if mask is not None:
        corner = mask[..., 0, -1]
        return bool((~corner if mask.dtype == torch.bool else corner < 0).all())
    # Only sdpa turns the flag into a causal mask of its own.
    flag = kwargs.get("is_causal")
    return base == "sdpa" and bool(getattr(module, "is_causal", True) if flag is None else flag)


def _unknown_inputs(kwargs: dict[str, Any], keys: int) -> tuple[str, ...]:
    return tuple(
        name
        for name, value in kwargs.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() >= 3
        and value.shape[-1] == keys
        and name not in _KNOWN_BIASES
    )


@contextmanager
def _recording(model: PreTrainedModel, base: str) -> Iterator[_Recorder]:
    """Every module records for the length of the block; then all is as it was."""
    recorder = _Recorder(model, base)
    modules = list(model.modules())
    before = [(module, get_slot(module), module.training) for module in modules]
    implementation = str(model.config._attn_implementation)
    for module in modules:
        set_slot(module, recorder)
    model.eval()
    try:
        switch_implementation(model, register_wrapper(base))
        yield recorder
    finally:
        model.set_attn_implementation(implementation)
        for module, slot, training in before:
            set_slot(module, slot)
            module.training = training


def _tiny_inputs(body: PreTrainedModel) -> dict[str, Any]:
    """One row of an ordinary token, with a shorter decoder side where the model has one."""
    parameters = inspect.signature(body.forward).parameters
    config = body.config.get_text_config()
    token = next(token for token in range(2) if token != config.pad_token_id)
    inputs: dict[str, Any] = {"input_ids": torch.full((1, _TOKENS), token, device=body.device)}
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :_DECODER_TOKENS]
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    return inputs
