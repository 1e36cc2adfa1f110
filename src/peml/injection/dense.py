"""Attention with dropout on a CPU, where torch has no fused kernel for it.

torch's own way there guards its softmax against rows in which everything is masked, and draws one
random number a weight, which costs more than the matrix products. With a prefix in front every row
sees something, so a plain softmax is exact, and 16 random bits decide on a weight as well. What is
saved pays for the additional keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend_densely(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float,
) -> Tensor:
    """Softmax attention with dropout on its weights, written out.

    Args:
        query: (batch, query_heads, query_length, head_dim).
        key: (batch, kv_heads, key_length, head_dim); heads are repeated for their group.
        value: As ``key``.
        mask: Boolean (True is visible) or additive, broadcastable to (batch, 1, query_length,
            key_length), at least one visible key a row; or None.
        scaling: Factor of the logits.
        dropout: Probability of dropping a weight.

    Returns:
        (batch, query_length, query_heads, head_dim), as Transformers' attention functions give it.
    """
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key = key.repeat_interleave(group, dim=1)
        value = value.repeat_interleave(group, dim=1)
    logits = torch.matmul(query * scaling, key.transpose(-1, -2))
    if mask is not None:
        # In place: the product's backward does not need its result.
        if mask.dtype == torch.bool:
            logits = logits.masked_fill_(~mask, -torch.inf)
        else:
            logits = logits.add_(mask)
    weights, kept = _drop(logits.softmax(-1), dropout)
    return (torch.matmul(weights, value) / kept).transpose(1, 2).contiguous()


_LEVELS = 2**16


def _drop(weights: Tensor, probability: float) -> tuple[Tensor, float]:
    """Drops weights at random; the caller divides by the share that is kept.

    The probability is rounded to 1/65536 (0.1 becomes 0.100006). The expectation stays exact, since
    what divides is the rounded share.
    """
    dropped = round(probability * _LEVELS)
    words = torch.empty((weights.numel() + 3) // 4, dtype=torch.int64)
    levels = words.random_(-(2**63), None).view(torch.int16)[: weights.numel()]
    keep = (levels >= dropped - _LEVELS // 2).view(weights.shape)
    return weights * keep.to(weights.dtype), 1 - dropped / _LEVELS
