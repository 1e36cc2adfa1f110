"""What works with a loaded model, and why the rest doesn't."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from peml.errors import InjectionError, ModelError
from peml.injection.probe import AttentionSite
from peml.injection.rotation import rotate_keys
from peml.injection.support import Support, check_support
from peml.methods.layers import READ_DIRECTLY, Layers
from peml.methods.targets import read_layers
from peml.models import Backbone, ModelSettings, load_backbone
from peml.versions import read_versions

Status = Literal["yes", "no", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    `status` is ``info`` for a plain fact. `reason` says why not, or what it means; may be empty.
    """

    name: str
    value: str
    status: Status = "info"
    reason: str = ""

    @classmethod
    def of(cls, name: str, reason: str, words: tuple[str, str]) -> Finding:
        """What works unless there is a reason why not; ``words`` say yes and no."""
        return cls(name, words[bool(reason)], "no" if reason else "yes", reason)


_SUPPORTED = ("supported", "not supported")


def load_for_diagnosis(name: str, *, trust_remote_code: bool) -> tuple[Backbone, Finding]:
    """The model with sdpa, or with eager attention and the reason why sdpa doesn't work."""
    # The shortest length, so that no model is refused for having few positions.
    settings = ModelSettings(
        name=name, max_length=8, attention="sdpa", trust_remote_code=trust_remote_code
    )
    try:
        return load_backbone(settings), Finding.of("sdpa attention", "", _SUPPORTED)
    except ModelError as error:
        reason = error.problem
    eager = settings.model_copy(update={"attention": "eager"})
    # If eager fails as well, attention isn't what is wrong, and that error says what is.
    return load_backbone(eager), Finding.of("sdpa attention", reason, _SUPPORTED)


def diagnose(model: PreTrainedModel) -> list[Finding]:
    """All findings about a loaded model, which is left unchanged.

    For a model that isn't supported, the findings hold the reason; no error is raised.
    """
    support, layers = check_support(model), read_layers(model)
    own = [site for site in support.sites if site.kind == "self"]
    versions = read_versions(("peml", "torch", "transformers", "peft"))
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    no_prefix = "" if support.ok else f"{support.reason}; {support.action}"
    whole = bool(model.supports_gradient_checkpointing)
    no_checkpoints = "" if whole else f"{type(model).__name__} does not support it"
    return [
        Finding("versions", f"{found}, Python {platform.python_version()}"),
        Finding("model type", str(model.config.model_type)),
        Finding("attention in use", str(model.config._attn_implementation)),
        *_attention(own, len(support.sites) - len(own)),
        Finding.of("prefix", no_prefix, _SUPPORTED),
        Finding.of("gradient checkpointing", no_checkpoints, _SUPPORTED),
        _merging(model, layers),
        *_without_lora(layers),
        _export_to_peft(model, support, own),
    ]


def _attention(own: list[AttentionSite], cross: int) -> list[Finding]:
    if not own:
        return []
    causal = sum(site.causal for site in own)
    windows = sorted({site.sliding_window for site in own if site.sliding_window is not None})
    windowed = sum(site.sliding_window is not None for site in own)
    return [
        Finding(
            "self-attention layers",
            str(len(own)),
            reason=f"{causal} causal, {len(own) - causal} see both sides; "
            f"cross-attention layers (no prefix): {cross}",
        ),
        Finding("query heads", _values([site.query_heads for site in own])),
        Finding("key/value heads", _values([site.kv_heads for site in own])),
        Finding("head size", _values([site.head_dim for site in own])),
        Finding(
            "sliding windows",
            ", ".join(map(str, windows)) if windows else "none",
            reason=f"in {windowed} of {len(own)} layers; the prefix stays visible in all"
            if windows
            else "",
        ),
    ]


def _values(values: list[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _merging(model: PreTrainedModel, layers: Layers) -> Finding:
    linears = [layer for layer in layers.linears if layer.kind != "embedding"]
    if getattr(model.config, "quantization_config", None) is not None:
        return Finding("LoRA merging", "no", "no", "its weights are quantized")
    if not linears:
        return Finding("LoRA merging", "no", "no", "it has no linear layers for LoRA")
    return Finding("LoRA merging", "exact", "yes", f"{len(linears)} linear layers")


def _without_lora(layers: Layers) -> Iterator[Finding]:
    """The finding about layers that can't take a low-rank update, if there are any."""
    tied = [layer for layer in layers.linears if layer.tied]
    if tied:
        names = ", ".join(layer.name for layer in tied)
        reason = f"{names} share one weight, so target_modules can't name them"
        yield Finding("tied layers", str(len(tied)), reason=reason)
    direct = [name for name, what in layers.others.items() if what == READ_DIRECTLY]
    if direct:
        reason = f"{direct[0]} and the like: {READ_DIRECTLY}; all-linear leaves them out"
        yield Finding("layers read directly", str(len(direct)), reason=reason)
    if layers.fused:
        reason = f"{layers.fused[0]} and the like hold several matrices; all-linear leaves them out"
        yield Finding("fused experts", str(len(layers.fused)), reason=reason)


def _export_to_peft(model: PreTrainedModel, support: Support, own: list[AttentionSite]) -> Finding:
    reason = ""
    if not support.ok:
        reason = "it takes no prefix"
    elif any(not site.causal for site in own):
        reason = "PEFT's prefix tuning works in the self-attention of decoders only"
    elif any(site.sliding_window is not None for site in own):
        reason = "PEFT's cached prefix scrolls out of a sliding window"
    else:
        site = own[0]
        try:
            rotate_keys(model, site, torch.ones(site.kv_heads, 1, site.head_dim), 1)
        except InjectionError as error:
            reason = error.problem
    reason = reason and f"{reason}; PEML's own format can store the prefix"
    return Finding.of("prefix export to PEFT", reason, ("exact", "no"))
