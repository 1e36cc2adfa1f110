"""Quiet keys: initial prefix keys that hardly change the model's output.

A key of zeros takes attention away from the real keys and shrinks every head's output. But the
queries of one head point mostly in a common direction, so a single key can give nearly all of them
a logit near ``-c``: the ridge least squares solution of ``scaling * q . k = -c`` over real queries.
With values of zero, n such keys take about ``n * exp(-c)`` of the real keys' softmax mass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection
from peml.prefix.prefix import PrefixStart

# Share of the mean square query that is added to the normal equations. Bounds the keys in
# directions that the queries don't determine.
_RIDGE = 1e-3

# From this quietness on, a prefix acts as if it were absent: on MiniLM 16 such positions change the
# hidden states by 0.15 % (benchmarks/quiet_start.py).
_SILENT = 8.0


@dataclass(frozen=True, slots=True)
class StartMeasurement:
    """A quiet start, and how well its keys fit the queries they were fitted to.

    Attributes:
        start: Keys and radius.
        logits: Mean logit of each quiet key, (layers, kv_heads); the target is ``-quietness``.
        spread: Standard deviation of that logit over the queries, (layers, kv_heads).
        norms: Median norm of the model's keys and values, (layers, 2).
        tokens: Number of tokens measured, without padding.
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
    """The quiet start of a prefix, as `measure_quiet_keys`; called once, before training."""
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

    Queries are taken after rotation. Tokens that the attention mask hides (padding) are left out,
    and so is the prefix, if one is set.

    Args:
        injection: Of the attached model.
        run: Calls the model on real rows, a few hundred tokens or more.
        quietness: c; the keys aim at a logit of ``-c``.
        radius: Bound of the learnt correction, in median norms of the layer's keys and values.
        max_tokens: Tokens used per layer.

    Raises:
        InjectionError: ``run()`` did not reach every self-attention layer.
    """
    layers = [
        _LayerMoments(site.kv_heads, site.head_dim, site.scaling, max_tokens)
        for site in injection.sites
    ]

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        layers[layer].add(query, key, value, mask)

    with injection.observed(observe):
        run()
    silent = [site.name for site, layer in zip(injection.sites, layers, strict=True) if not layer.n]
    if silent:
        raise InjectionError(
            f"no real token reached {silent[0]} ({len(silent)} of {len(layers)} layers)",
            allowed="a function that calls the whole model on at least one row",
            action="pass a function that calls the attached model on real rows",
        )
    solved = [layer.solve(quietness) for layer in layers]
    keys, logits, spread = map(torch.stack, zip(*solved, strict=True))
    is_silent = quietness >= _SILENT
    norms = torch.tensor([layer.median_norms() for layer in layers])
    return StartMeasurement(
        start=PrefixStart(
            keys=keys,
            radius=radius * norms,
            silent=None if is_silent else torch.stack([x.solve(_SILENT)[0] for x in layers]),
        ),
        logits=logits,
        spread=spread,
        norms=norms,
        tokens=min(layer.tokens for layer in layers),
    )


class _LayerMoments:
    """First and second moments of one layer's queries, in float64, without keeping queries."""

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
        # The query heads of a group share a key, so all their queries are used for it.
        group = queries.view(tokens, kv_heads, query_heads // kv_heads, head_dim)
        rows = group.transpose(0, 1).reshape(kv_heads, -1, head_dim)
        self._sum += rows.sum(1)
        self._square += rows.transpose(1, 2) @ rows
        self.n += rows.shape[1]
        self.tokens += tokens
        for norms, states in zip(self._norms, (keys, values), strict=True):
            norms.append(states.norm(dim=-1).flatten())

    def solve(self, quietness: float) -> tuple[Tensor, Tensor, Tensor]:
        """Quiet keys (kv_heads, head_dim), mean and spread of their logits (kv_heads,)."""
        scaling, n = self._scaling, self.n
        mean, square = scaling * self._sum / n, scaling**2 * self._square / n
        head_dim = square.shape[-1]
        average = square.diagonal(dim1=-2, dim2=-1).mean(-1)
        # The tiny constant keeps the equations solvable if all queries of a head are zero.
        ridge = (_RIDGE * average + torch.finfo(torch.float64).tiny)[:, None, None]
        identity = torch.eye(head_dim, dtype=torch.float64)
        keys = torch.linalg.solve(square + ridge * identity, -quietness * mean)
        logit = (mean * keys).sum(-1)
        second = torch.einsum("hc,hcd,hd->h", keys, square, keys)
        spread = (second - logit.square()).clamp_min(0).sqrt()
        return keys.float(), logit.float(), spread.float()

    def median_norms(self) -> tuple[float, float]:
        """Median norms of the keys and of the values of one head."""
        keys, values = (torch.cat(norms).median().item() for norms in self._norms)
        return keys, values


def _real_tokens(key: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens that at least one query may see, (batch, length) boolean; the others are padding."""
    batch, _, length, _ = key.shape
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=key.device)
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible.any(dim=1).any(dim=-2).expand(batch, length)
