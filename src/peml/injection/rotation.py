"""Converts an injected prefix to the content of a key/value cache, as in PEFT's prefix tuning.

A cache shifts the tokens' positions by the prefix length n; injection does not. With rotary
positions the two agree after one rotation of the stored keys, ``k_cached = R(n) k_injected``,
because ``<R(p + n) q, R(n) k> = <R(p) q, k>``. Layers without positions (every fourth of SmolLM3)
need no rotation.
"""

import copy
import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection
from peml.injection.probe import AttentionSite, unwrap
from peml.prefix.prefix import Prefix

_NATIVE = "use the native format (the run's model/ folder), which keeps the prefix as it is"

# Longer than any model's context; as a float it is exact.
_FAR = 2**24


def find_rotary(model: nn.Module) -> nn.Module | None:
    """The model's rotary position embedding (a module with inverse frequencies), or None."""
    inner: nn.Module = unwrap(model)
    for module in inner.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            return module
    return None


def rotate_keys(model: nn.Module, site: AttentionSite, keys: Tensor, offset: int) -> Tensor:
    """Rotates keys by ``offset`` positions with the model's own rotary embedding.

    `keys` are (kv_heads, length, head_dim), those of the site; some models rotate layers
    differently.

    Raises:
        InjectionError: The model has no rotary positions, or shifting queries and keys alike
            changes the logits.
    """
    rotate = _rotation(model, site)
    rotated = rotate(keys, offset)
    # checks the identity in the module's docstring with these keys
    probe = torch.linspace(-1, 1, keys.shape[-1], dtype=keys.dtype, device=keys.device)
    query = probe.expand(keys.shape[0], 1, -1)
    plain = (rotate(query, 3) * keys).sum(-1)
    shifted = (rotate(query, 3 + offset) * rotated).sum(-1)
    if not torch.allclose(plain, shifted, rtol=1e-3, atol=1e-4 * float(1 + plain.abs().max())):
        raise InjectionError(
            f"{site.name}: rotating queries and keys by {offset} positions changes the logits",
            allowed="positions that rotate queries and keys alike",
            action=_NATIVE,
        )
    return rotated


def peft_layout(prefix: Tensor) -> Tensor:
    """Reshapes a prefix, (layers, 2, kv_heads, prefix_length, head_dim), to PEFT's layout.

    (prefix_length, layers * 2 * kv_heads * head_dim): layer, then key or value, then head, then
    channel.
    """
    return prefix.permute(3, 0, 1, 2, 4).reshape(prefix.shape[3], -1)


def cached_prefix(injection: PrefixInjection, prefix: Prefix) -> Tensor:
    """A prefix as stored in a key/value cache, where it shifts the tokens' positions.

    Returns:
        Keys and values in float32, (layers, 2, kv_heads, prefix_length, head_dim).

    Raises:
        InjectionError: Some layers have no prefix (a cache has one length for all), a sliding
            window would hide a cached prefix, or the positions aren't rotary.
    """
    skipped = [site.name for site, on in zip(injection.sites, prefix.active, strict=True) if not on]
    windows = [site.name for site in injection.sites if site.sliding_window is not None]
    problem, action = "", _NATIVE
    if any(not site.causal for site in injection.sites):
        problem = "such a cache serves the self-attention of decoders only"
    elif windows:
        problem = f"{windows[0]} has a sliding window, which would move past a cached prefix"
    elif skipped:
        problem = f"{skipped[0]} has no prefix, and a cache has the same length in every layer"
        action = f"{_NATIVE}; or search without layer gates (method.prefix.layer_gates: false)"
    if problem:
        raise InjectionError(
            f"this prefix can't be kept in the key/value cache of PEFT or Transformers: {problem}",
            allowed="decoder-only models with a prefix in every layer and no sliding window",
            action=action,
        )
    tensor = prefix.tensor.detach().to(torch.float32, copy=True)
    rotated = _rotated_layers(injection)
    for layer, site in enumerate(injection.sites):
        if rotated[layer]:  # the others have no positions
            tensor[layer, 0] = rotate_keys(injection.model, site, tensor[layer, 0], prefix.length)
    return tensor


def peft_prompt_embeddings(injection: PrefixInjection, prefix: Prefix) -> Tensor:
    """The ``prompt_embeddings`` of an equal prefix in PEFT; raises as `cached_prefix`."""
    return peft_layout(cached_prefix(injection, prefix))


def _rotated_layers(injection: PrefixInjection) -> list[bool]:
    """Which layers rotate their keys; some models leave every fourth without positions.

    Found by running the model: a single token attends only to itself, so its hidden states are the
    same at every position, and its keys differ only if they are rotated.
    """
    near, far = (_keys_of_a_token(injection, position) for position in (0, 1))
    return [
        not torch.allclose(near[layer], far[layer], rtol=1e-4, atol=1e-5) for layer in sorted(near)
    ]


def _keys_of_a_token(injection: PrefixInjection, position: int) -> dict[int, Tensor]:
    keys: dict[int, Tensor] = {}

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        keys[layer] = key

    token = torch.tensor([[1]], device=next(injection.model.parameters()).device)
    with injection.observed(observe):
        injection.model(input_ids=token, position_ids=torch.full_like(token, position))
    return keys


def _rotation(model: nn.Module, site: AttentionSite) -> Callable[[Tensor, int], Tensor]:
    rotary = find_rotary(model)
    scope = inspect.unwrap(type(site.module).forward).__globals__
    apply = scope.get("apply_rotary_pos_emb")
    if rotary is None or apply is None:
        raise InjectionError(
            f"{site.name}: positions are not rotary, so its keys can't be converted",
            allowed="models with a rotary position embedding (Llama, Qwen, Phi, GPT-NeoX, ...)",
            action=_NATIVE,
        )
    layer_type = getattr(site.module, "layer_type", None)
    by_type = "layer_type" in inspect.signature(rotary.forward).parameters
    arguments = {"layer_type": layer_type} if by_type else {}
    if not _has_fixed_frequencies(rotary, arguments):
        raise InjectionError(
            f"{site.name}: the rotary frequencies change with the length of the text, so a key "
            "rotated once fits texts of one length only",
            allowed="rotary positions with fixed frequencies (default, linear, llama3, yarn)",
            action=_NATIVE,
        )
    prefix = f"{layer_type}_" if by_type else ""
    # Yarn and similar methods also scale queries and keys; stored keys are scaled already.
    scale = getattr(rotary, f"{prefix}attention_scaling", 1.0)

    def rotate(states: Tensor, offset: int) -> Tensor:
        positions = torch.full((1, states.shape[1]), offset, device=states.device)
        cos, sin = rotary(states[None], positions, **arguments)
        rotary_dim = cos.shape[-1]
        head = states[None, ..., :rotary_dim]
        _, head = apply(head, head, cos / scale, sin / scale)
        return torch.cat([head[0], states[..., rotary_dim:]], dim=-1)

    return rotate


def _has_fixed_frequencies(rotary: nn.Module, arguments: Mapping[str, object]) -> bool:
    """Whether a position is rotated the same in short and in long texts."""
    rotary = copy.deepcopy(rotary)  # some store the length of the longest text
    device = next(rotary.buffers()).device

    def rotation_at_one(length: int) -> Tensor:
        positions = torch.tensor([[1, length - 1]], device=device)
        cos, sin = rotary(torch.zeros(1, device=device), positions, **arguments)
        return torch.cat([cos[0, 0], sin[0, 0]])

    return torch.equal(rotation_at_one(3), rotation_at_one(_FAR))
