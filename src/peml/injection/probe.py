"""Finds a model's attention modules by recording one tiny forward pass."""

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
    WRAPPER_PREFIX,
    base_attention,
    get_slot,
    masks_causally,
    register_wrapper,
    set_slot,
)

# Different lengths, so that cross-attention can be told apart: its keys are the encoder's.
_TOKENS = 7
_DECODER_TOKENS = 5

_KNOWN_BIASES = frozenset({"position_bias"})


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One attention module, as recorded when it was called.

    Attributes:
        name: Path of the module in the model.
        kind: ``self`` (keys of its own sequence) or ``cross`` (keys of the encoder).
        causal: Whether a token sees only itself and the tokens before it.
        kv_heads: Heads of keys and values; fewer under grouped-query attention.
        head_dim: Channels of one key.
        value_dim: Channels of one value; in nearly all models the same as ``head_dim``.
        scaling: Factor of the dot products (1 in T5).
        sliding_window: Tokens that a query sees, or None for all.
        unknown_inputs: Names of other per-key inputs, which can't be extended over a prefix.
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
    """The Transformers model without PEFT's wrapper; raises an InjectionError for other models."""
    get_base_model = getattr(model, "get_base_model", None)
    inner = model if get_base_model is None else get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise InjectionError(
            f"{type(inner).__name__} is not a Transformers model",
            allowed="a PreTrainedModel, optionally wrapped by PEFT",
            action="pass the model, not a pipeline, a head or a compiled wrapper",
        )
    return inner


def implementation_of(model: PreTrainedModel) -> str:
    """The attention implementation of a model (``sdpa`` for ``peml_sdpa``).

    Raises:
        InjectionError: Parts of the model differ, or it can't take a prefix.
    """
    configs = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    names = sorted(
        {str(config._attn_implementation).removeprefix(WRAPPER_PREFIX) for config in configs}
    )
    if len(names) > 1 or names[0] not in IMPLEMENTATIONS:
        raise InjectionError(
            f"attention implementation {' and '.join(map(repr, names))} can't take a prefix",
            allowed=", ".join(map(repr, IMPLEMENTATIONS)) + ", the same in all parts of the model",
            action="call model.set_attn_implementation('sdpa') first, "
            "or load the model with attn_implementation='sdpa'",
        )
    return names[0]


def probe(model: nn.Module) -> list[AttentionSite]:
    """Lists the attention modules of a model in call order, by running one tiny forward pass.

    A module that is called several times (layers that share weights) is listed once. The model is
    left unchanged: implementation, slots, training flags, random state.

    Raises:
        InjectionError: The model doesn't use Transformers' attention interface, or can't be run on
            a few token ids.
    """
    inner = unwrap(model)
    base = implementation_of(inner)
    # Without the head: some heads require an end token, labels or equal lengths.
    with _recording(inner, base) as recorder:
        _run(inner.base_model)
    if not recorder.sites:
        raise InjectionError(
            f"{type(inner).__name__} made no attention call",
            allowed="models that use Transformers' attention interface",
            action="use another base model; a prefix of keys and values needs attention layers",
        )
    return list(recorder.sites.values())


def probe_decoder_side(model: nn.Module, paths: Iterable[str]) -> frozenset[str]:
    """The modules that process the decoder's tokens; none unless it is an encoder-decoder.

    A module's path doesn't say so, since a decoder's cross-attention reads both sides. One tiny
    forward pass with a shorter decoder input shows it.

    `paths` are modules whose input is (..., length, channels). Modules outside the model's body,
    such as the output layer, count as the decoder's.

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
    try:
        with in_eval_mode(inner):
            _run(inner.base_model)
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(path for path in paths if lengths.get(path, _DECODER_TOKENS) != _TOKENS)


@torch.no_grad()
def _run(body: PreTrainedModel) -> None:
    try:
        body(**_tiny_inputs(body))
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        raise InjectionError(
            f"{type(body).__name__} can't be run on a few token ids: {error}",
            allowed="a text model with loaded weights that takes input_ids",
            action="load its weights, or pass the text part of the model",
        ) from error


def switch_implementation(model: PreTrainedModel, name: str) -> None:
    """Sets the attention implementation of all parts of a model.

    Raises:
        InjectionError: The model doesn't use Transformers' attention interface, or a module reads
            the name from a config that is not the model's.
    """
    if not type(model)._can_set_attn_implementation():
        raise InjectionError(
            f"{type(model).__name__} does not use Transformers' attention interface",
            allowed="models whose attention implementation can be set by name",
            action="use another base model; LoRA still works on this one",
        )
    for part in model.modules():
        # Transformers 5.15 leaves out parts with a copy of the model's config, as T5's stacks.
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation(name)
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", name) != name:
            raise InjectionError(
                f"{path} of {type(model).__name__} does not follow the model's config",
                allowed="modules that take their attention implementation from the model's config",
                action="give the module the model's config, or use the model as it was loaded",
            )


class _Recorder:
    """The slot of all modules during the probe: records each call, then attends as usual."""

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
    return base == "sdpa" and masks_causally(module, kwargs)


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
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each module has its mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _recording(model: PreTrainedModel, base: str) -> Iterator[_Recorder]:
    recorder = _Recorder(model, base)
    before = [(module, get_slot(module)) for module in model.modules()]
    implementation = str(model.config._attn_implementation)
    for module, _ in before:
        set_slot(module, recorder.attend)
    try:
        with in_eval_mode(model):
            switch_implementation(model, register_wrapper(base))
            yield recorder
    finally:
        switch_implementation(model, implementation)
        for module, slot in before:
            set_slot(module, slot)


def _tiny_inputs(body: PreTrainedModel) -> dict[str, Any]:
    """One row of an ordinary token; the decoder's input, if there is one, is shorter."""
    parameters = inspect.signature(body.forward).parameters
    config = body.config.get_text_config()
    token = next(token for token in range(2) if token != config.pad_token_id)
    inputs: dict[str, Any] = {"input_ids": torch.full((1, _TOKENS), token, device=body.device)}
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :_DECODER_TOKENS]
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    return inputs
