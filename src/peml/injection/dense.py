"""Attention with dropout on a CPU, for which torch has no fused kernel.

torch's fallback protects the softmax from fully masked rows and draws one random number per weight,
which costs more than the matrix products. With a prefix every row sees at least one key, so a plain
softmax is exact, and 16 random bits per weight are enough for dropout. The saved time outweighs the
additional keys.
"""

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
        key: (batch, kv_heads, key_length, head_dim); repeated for the query heads of a group.
        value: As ``key``.
        mask: Boolean (True is visible) or additive, broadcastable to (batch, 1, query_length,
            key_length), with at least one visible key per row; or None.
        scaling: Factor of the logits.
        dropout: Probability that a weight is dropped.

    Returns:
        (batch, query_length, query_heads, head_dim), as Transformers' functions return it.
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
    weights, kept_share = drop(logits.softmax(-1), dropout)
    return (torch.matmul(weights, value) / kept_share).transpose(1, 2).contiguous()


_LEVELS = 2**16


def drop(weights: Tensor, probability: float) -> tuple[Tensor, float]:
    """Drops weights at random, and returns the share that is kept, to divide by.

    The probability is rounded to 1/65536 (0.1 becomes 0.100006), and so is the share, so the
    expected value is exact. With a probability of 0, nothing is dropped.
    """
    if not probability:
        return weights, 1.0
    dropped = round(probability * _LEVELS)
    words = torch.empty((weights.numel() + 3) // 4, dtype=torch.int64, device=weights.device)
    levels = words.random_(-(2**63), None).view(torch.int16)[: weights.numel()]
    keep = (levels >= dropped - _LEVELS // 2).view(weights.shape)
    return weights * keep.to(weights.dtype), 1 - dropped / _LEVELS
