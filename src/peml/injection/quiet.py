"""Quiet keys: initial prefix keys that hardly change the model's output.

A key of zeros takes attention away from the real keys and shrinks every head's output. But the
queries of one head point mostly in a common direction, so a single key can give nearly all of them
a logit near ``-c``: the ridge least squares solution of ``scaling * q . k = -c`` over real queries.
With values of zero, n such keys take about ``n * exp(-c)`` of the real keys' softmax mass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection
from peml.prefix.prefix import PrefixStart

# Share of the mean square query that is added to the normal equations; it bounds the keys in
# directions that the queries don't determine.
_RIDGE = 1e-3

# From this quietness on, a prefix has hardly any effect: on MiniLM, 16 such positions change the
# hidden states by 0.15 % (benchmarks/quiet_start.py).
_SILENT = 8.0


def measure_start(
    injection: PrefixInjection,
    run: Callable[[], None],
    *,
    quietness: float = 4.0,
    radius: float = 1.0,
    max_tokens: int = 4096,
) -> PrefixStart:
    """The start of a prefix: a quiet key per layer and key/value head, and radii.

    Called once, before training. Keys are fitted to the queries of real tokens, after rotation.
    Tokens that the attention mask hides (padding) are ignored, and so is the prefix, if one is set.

    `run` calls the model on real rows, a few hundred tokens or more, of which `max_tokens` are used
    per layer. The keys aim at a logit of ``-quietness``; `radius` bounds the learnt correction, in
    median norms of the layer's keys and values.

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
    missed = [site.name for site, layer in zip(injection.sites, layers, strict=True) if not layer.n]
    if missed:
        raise InjectionError(
            f"no real token reached {missed[0]} ({len(missed)} of {len(layers)} layers)",
            allowed="a function that calls the whole model on at least one row",
            action="pass a function that calls the attached model on real rows",
        )
    silent = [layer.solve(_SILENT) for layer in layers]
    return PrefixStart(
        keys=torch.stack([layer.solve(quietness) for layer in layers]),
        radius=radius * torch.tensor([layer.median_norms() for layer in layers]),
        silent=None if quietness >= _SILENT else torch.stack(silent),
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

    def solve(self, quietness: float) -> Tensor:
        """Quiet keys, (kv_heads, head_dim)."""
        scaling, n = self._scaling, self.n
        mean, square = scaling * self._sum / n, scaling**2 * self._square / n
        average = square.diagonal(dim1=-2, dim2=-1).mean(-1)
        # The tiny constant keeps the equations solvable if all queries of a head are zero.
        ridge = (_RIDGE * average + torch.finfo(torch.float64).tiny)[:, None, None]
        identity = torch.eye(square.shape[-1], dtype=torch.float64)
        keys: Tensor = torch.linalg.solve(square + ridge * identity, -quietness * mean)
        return keys.float()

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
