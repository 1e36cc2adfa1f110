"""Says whether a model can take a prefix, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peml.errors import InjectionError
from peml.injection.probe import AttentionSite, implementation_of, probe, unwrap
from peml.prefix.prefix import PrefixShape


@dataclass(frozen=True, slots=True)
class Support:
    """The answer to "can this model take a prefix?".

    Attributes:
        ok: Whether it can.
        reason: Why not; empty if it can.
        action: What to do about it; empty if it can.
        implementation: The attention implementation that is wrapped; empty if unknown.
        sites: All attention modules the probe saw, cross-attention included.
        shape: Layers, heads and channels of a prefix; None if it can't take one.
    """

    ok: bool
    reason: str = ""
    action: str = ""
    implementation: str = ""
    sites: tuple[AttentionSite, ...] = ()
    shape: PrefixShape | None = None


def check_support(model: nn.Module) -> Support:
    """Probes a model without changing it. Never raises for a model; the reason is in the answer.

    Refused are models whose attention does not go through Transformers' attention interface, that
    use an implementation PEML does not wrap, whose self-attention layers differ in key/value heads
    or channels, or that pass per-key inputs a prefix would not fit.
    """
    try:
        inner = unwrap(model)
        implementation = implementation_of(inner)
        sites = tuple(probe(inner))
    except InjectionError as error:
        return Support(ok=False, reason=error.problem, action=error.action)
    own = [site for site in sites if site.kind == "self"]
    reason = _refusal(own)
    if reason or not own:
        return Support(
            ok=False,
            reason=reason or f"{type(inner).__name__} has cross-attention only",
            action="use another base model; adapters of the weights (LoRA) still work on this one",
            implementation=implementation,
            sites=sites,
        )
    shape = PrefixShape(layers=len(own), kv_heads=own[0].kv_heads, head_dim=own[0].head_dim)
    return Support(ok=True, implementation=implementation, sites=sites, shape=shape)


def _refusal(own: list[AttentionSite]) -> str:
    shapes = sorted({(site.kv_heads, site.head_dim) for site in own})
    if len(shapes) > 1:
        listed = ", ".join(f"{heads} x {channels}" for heads, channels in shapes)
        return (
            "self-attention layers differ in key/value heads x channels "
            f"({listed}); one prefix tensor can't serve them all"
        )
    for site in own:
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
