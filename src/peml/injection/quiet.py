"""Quiet keys: the start at which a prefix hardly moves the model.

A key of zeros takes softmax mass and shrinks every head's output. Real queries of one head point,
by and large, in a common direction, so a single key can answer nearly all of them with a logit
near ``-c``: the ridge least squares solution of ``scaling * q . k = -c`` over real queries. With
values of zero, a prefix of n such keys takes a mass of about ``n * exp(-c)`` of the real keys'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection
from peml.prefix.prefix import PrefixStart

# Share of the mean square query added to the normal equations. Keeps keys of ordinary size where
# the queries leave directions undetermined.
_RIDGE = 1e-3

# The quietness that is as good as absence: on MiniLM 16 such positions move the hidden states by
# 0.15 % (benchmarks/quiet_start.py).
_SILENT = 8.0


@dataclass(frozen=True, slots=True)
class StartMeasurement:
    """A quiet start and how well its keys answer the queries they were fitted to.

    Attributes:
        start: The start.
        logits: Mean logit of each quiet key, (layers, kv_heads); the target is ``-quietness``.
        spread: Standard deviation of that logit over the queries, (layers, kv_heads).
        norms: Median norm of the model's own keys and values, (layers, 2).
        tokens: Real tokens the measurement saw.
    """

    start: PrefixStart
    logits: Tensor
    spread: Tensor
    norms: Tensor
    tokens: int


def measure_start(
    injection: PrefixInjection,
    run: Callable[[], None],
    *,
    quietness: float = 4.0,
    radius: float = 1.0,
    max_tokens: int = 4096,
) -> PrefixStart:
    """The harmless start of a prefix; ``measure_quiet_keys`` without the figures.

    Called once, before training, with the model as it starts.
    """
    return measure_quiet_keys(
        injection, run, quietness=quietness, radius=radius, max_tokens=max_tokens
    ).start


def measure_quiet_keys(
    injection: PrefixInjection,
    run: Callable[[], None],
    *,
    quietness: float = 4.0,
    radius: float = 1.0,
    max_tokens: int = 4096,
) -> StartMeasurement:
    """Fits one quiet key per layer and key/value head to the queries of real tokens.

    Queries are taken as attention gets them, so after rotation. Padding is left out where the
    attention mask shows it. The prefix, if one is set, is off while ``run()`` calls the model.

    Args:
        injection: The attached model's injection.
        run: Calls the model on real rows, a few hundred tokens or more.
        quietness: c; the logit aimed at is ``-c``.
        radius: Bound of the learnt correction, in median norms of the layer's own keys and values.
        max_tokens: Tokens used of each layer; later ones are ignored.

    Raises:
        InjectionError: If ``run()`` did not reach every self-attention layer.
    """
    layers = [
        _LayerMoments(site.kv_heads, site.head_dim, site.scaling, max_tokens)
        for site in injection.sites
    ]

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        layers[layer].add(query, key, value, mask)

    injection.observer = observe
    try:
        with injection.disabled(), torch.no_grad():
            run()
    finally:
        injection.observer = None

    silent = [site.name for site, layer in zip(injection.sites, layers, strict=True) if not layer.n]
    if silent:
        raise InjectionError(
            f"no real token reached {silent[0]} ({len(silent)} of {len(layers)} layers)",
            allowed="a run that calls the whole model on at least one row",
            action="pass a function that calls the attached model on real rows",
        )
    solved = [layer.solve(quietness) for layer in layers]
    loud = quietness < _SILENT
    silent_keys = [layer.solve(_SILENT)[0] for layer in layers] if loud else None
    norms = torch.tensor([layer.median_norms() for layer in layers])
    return StartMeasurement(
        start=PrefixStart(
            keys=torch.stack([keys for keys, _, _ in solved]),
            radius=radius * norms,
            silent=None if silent_keys is None else torch.stack(silent_keys),
        ),
        logits=torch.stack([mean for _, mean, _ in solved]),
        spread=torch.stack([spread for _, _, spread in solved]),
        norms=norms,
        tokens=min(layer.tokens for layer in layers),
    )


class _LayerMoments:
    """First and second moments of one layer's queries, in float64: no query is kept."""

    def __init__(self, kv_heads: int, head_dim: int, scaling: float, max_tokens: int) -> None:
        self._scaling = scaling
        self._max_tokens = max_tokens
        self._sum = torch.zeros(kv_heads, head_dim, dtype=torch.float64)
        self._square = torch.zeros(kv_heads, head_dim, head_dim, dtype=torch.float64)
        self._norms: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.tokens = 0
        self.n = 0

    def add(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        room = self._max_tokens - self.tokens
        if room <= 0:
            return
        real = _real_tokens(key, mask)
        # (batch, heads, length, channels) -> (tokens, heads, channels), the first `room` of them.
        queries, keys, values = (
            states.transpose(1, 2)[real][:room].to("cpu", torch.float64)
            for states in (query, key, value)
        )
        tokens, query_heads, head_dim = queries.shape
        kv_heads = keys.shape[1]
        # The query heads of a group share a key, so their queries count alike.
        group = queries.view(tokens, kv_heads, query_heads // kv_heads, head_dim)
        rows = group.transpose(0, 1).reshape(kv_heads, -1, head_dim)
        self._sum += rows.sum(1)
        self._square += rows.transpose(1, 2) @ rows
        self.n += rows.shape[1]
        self.tokens += tokens
        for kept, states in zip(self._norms, (keys, values), strict=True):
            kept.append(states.norm(dim=-1).flatten())

    def solve(self, quietness: float) -> tuple[Tensor, Tensor, Tensor]:
        """Quiet keys (kv_heads, head_dim), mean and spread of their logits (kv_heads,)."""
        scaling, n = self._scaling, self.n
        mean, square = scaling * self._sum / n, scaling**2 * self._square / n
        head_dim = square.shape[-1]
        average = square.diagonal(dim1=-2, dim2=-1).mean(-1)
        # The tiny constant keeps a head whose queries are all zero solvable: its key is zero.
        ridge = (_RIDGE * average + torch.finfo(torch.float64).tiny)[:, None, None]
        identity = torch.eye(head_dim, dtype=torch.float64)
        keys = torch.linalg.solve(square + ridge * identity, -quietness * mean)
        logit = (mean * keys).sum(-1)
        second = torch.einsum("hc,hcd,hd->h", keys, square, keys)
        spread = (second - logit.square()).clamp_min(0).sqrt()
        return keys.float(), logit.float(), spread.float()

    def median_norms(self) -> tuple[float, float]:
        """Median norm of one head's key and of its value."""
        keys, values = (torch.cat(kept).median().item() for kept in self._norms)
        return keys, values


def _real_tokens(key: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens some query may see, (batch, length) boolean: the others are padding."""
    batch, _, length, _ = key.shape
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=key.device)
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible.any(dim=1).any(dim=-2).expand(batch, length)
