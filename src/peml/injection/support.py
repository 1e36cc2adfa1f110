"""Checks whether a model can take a prefix."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from peml.errors import InjectionError
from peml.injection.probe import AttentionSite, implementation_of, probe, unwrap
from peml.prefix.shape import PrefixShape


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a model can take a prefix.

    If it can't (`ok`), `reason` says why, and `action` what to do. `implementation` is that of
    attention (empty if unknown), `sites` are all attention modules, cross-attention included.
    """

    ok: bool
    reason: str = ""
    action: str = ""
    implementation: str = ""
    sites: tuple[AttentionSite, ...] = ()
    shape: PrefixShape | None = None


def check_support(model: nn.Module) -> Support:
    """Probes a model without changing it; never raises, the reason is in the result.

    A model can't take a prefix if it doesn't use Transformers' attention interface, uses an
    implementation that PEML doesn't wrap, has self-attention layers with different key/value heads
    or channels, has keys that don't stand for one token each, or passes per-key inputs that can't
    be extended over a prefix.
    """
    try:
        inner = unwrap(model)
        implementation = implementation_of(inner)
        sites = tuple(probe(inner))
    except InjectionError as error:
        return Support(ok=False, reason=error.problem, action=error.action)
    layers = [site for site in sites if site.kind == "self"]
    reason = _refusal(layers) or _missing(inner, sites)
    if reason or not layers:
        return Support(
            ok=False,
            reason=reason or f"{type(inner).__name__} has cross-attention only",
            action="use another base model; LoRA still works on this one",
            implementation=implementation,
            sites=sites,
        )
    shape = PrefixShape(len(layers), layers[0].kv_heads, layers[0].head_dim)
    return Support(ok=True, implementation=implementation, sites=sites, shape=shape)


def _refusal(layers: list[AttentionSite]) -> str:
    shapes = sorted({(site.kv_heads, site.head_dim) for site in layers})
    if len(shapes) > 1:
        listed = ", ".join(f"{heads} x {channels}" for heads, channels in shapes)
        return (
            "self-attention layers differ in key/value heads x channels "
            f"({listed}); one prefix tensor can't serve them all"
        )
    for site in layers:
        if site.value_dim != site.head_dim:
            return (
                f"{site.name}: keys have {site.head_dim} channels and values {site.value_dim}; "
                "a prefix needs the same number"
            )
        if site.unknown_inputs:
            return (
                f"{site.name}: attention takes {', '.join(site.unknown_inputs)} for each key, "
                "which can't be extended over a prefix"
            )
    return ""


def _missing(model: PreTrainedModel, sites: tuple[AttentionSite, ...]) -> str:
    """Why a prefix would not reach all layers that it should; empty if it would."""
    if not model.config.is_encoder_decoder:
        for site in sites:
            if site.kind == "cross":
                return f"{site.name}: a key doesn't stand for one token, so none can be added"
    elif all(site.causal for site in sites if site.kind == "self"):
        return (
            f"the encoder of {type(model).__name__} does not use Transformers' attention interface"
        )
    return ""
