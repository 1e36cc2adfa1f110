"""Attention to keys and values that several rows share, without a copy per row.

A row attends to its own tokens and to its task's context. The two parts are computed separately and
joined by their log-sum-exps, so all rows of a task meet the context in one matrix product. Hydragen
(arXiv 2402.05099) does this at inference; here gradients flow too: with the joint log-sum-exp and
the joint output, a fused kernel's backward gives each part's exact share of the gradient.

torch's fused kernel for CPUs returns the log-sum-exp. In bfloat16 it is slower than plain matrix
products, so it computes only the rows' own tokens, and without its backward pass. On other devices,
and with dropout, the logits of both parts are written out and share one softmax.

On a CPU, two kinds of attention come here without contexts as well. In bfloat16 the fused kernel's
backward pass takes up to ten times as long as matrix products. For dropout torch has no fused
kernel; its fallback protects the softmax from fully masked rows, whose output nothing reads, and
draws one random number per weight, where 16 random bits are enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_LEVELS = 2**16

_MOST_WEIGHTS = 2**21
"""Attention weights that a backward pass computes at a time, so that they stay in a CPU's cache."""

_LEAST_SUM = -100.0
"""Log-sum-exp of a query's own part below which it sees no token (padding), or hardly any."""

_MOST_SUM = 100.0
"""Log-sum-exp up to which bfloat16's rounding of keys hardly moves the logits."""

_MOST_TOTAL = 1e30
"""Sum over both parts, as a multiple of the own part's, that bfloat16 holds with room to spare."""


@dataclass(frozen=True, slots=True)
class Shared:
    """One layer's context of neighbouring rows.

    Attributes:
        rows: Number of rows that share it.
        key: (kv_heads, positions, head_dim); None: these rows have no context.
        value: As ``key``.
    """

    rows: int
    key: Tensor | None = None
    value: Tensor | None = None


def attend_shared(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    contexts: Sequence[Shared],
    *,
    scaling: float,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each row to its own keys and to the context it shares with its neighbours.

    Args:
        query: (batch, query_heads, query_length, head_dim).
        key: (batch, kv_heads, key_length, head_dim).
        value: As ``key``.
        mask: Of the rows' own keys: boolean (True is visible) or additive, broadcastable to (batch,
            1, query_length, key_length); None: all are visible, or ``causal``.
        contexts: Of all rows, in the order of the batch.
        scaling: Factor of the logits.
        causal: Whether a token sees itself and its own tokens before it; without a mask.
        dropout: Probability that a weight is dropped.

    Returns:
        (batch, query_length, query_heads, head_dim), as Transformers' functions return it.
    """
    group = query.shape[1] // key.shape[1]
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves rotations in float32
    if mask is not None and mask.dtype == torch.bool:
        # The smallest number rather than minus infinity: a padded query may see no token.
        least = torch.finfo(query.dtype).min
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, least)
    elif mask is not None:
        mask = mask.to(query.dtype)
    pairs = [t for each in contexts for t in (each.key, each.value)]
    rows = [each.rows for each in contexts]
    if _is_fused(query, dropout):
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        output: Tensor = _Joined.apply(query, key, value, mask, scaling, causal, rows, *pairs)
    else:
        output = _dense(query, key, value, mask, rows, pairs, scaling, causal, dropout)
    return output.transpose(1, 2).contiguous()


def _is_fused(query: Tensor, dropout: float) -> bool:
    """Whether torch's fused kernel for CPUs can be used."""
    return query.device.type == "cpu" and not dropout


def _parts(
    rows: Sequence[int], pairs: Sequence[Tensor | None]
) -> Iterator[tuple[slice, Tensor | None, Tensor | None]]:
    """The rows that share a context, with its key and value; None if they have no context."""
    begin = 0
    for count, key, value in zip(rows, pairs[::2], pairs[1::2], strict=True):
        yield slice(begin, begin + count), key, value
        begin += count


def _flat(states: Tensor, kv_heads: int) -> Tensor:
    """(rows, query_heads, length, d) -> (kv_heads, rows * group * length, d)."""
    rows, heads, length, size = states.shape
    grouped = states.view(rows, kv_heads, heads // kv_heads, length, size)
    return grouped.transpose(0, 1).reshape(kv_heads, -1, size)


def _rows(flat: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_flat`: (kv_heads, rows * group * length, d) -> (rows, heads, length, d)."""
    rows, heads, length = like.shape[:3]
    kv_heads, _, size = flat.shape
    grouped = flat.view(kv_heads, rows, heads // kv_heads, length, size)
    return grouped.transpose(0, 1).reshape(rows, heads, length, size)


class _Joined(torch.autograd.Function):
    """The two parts by torch's fused kernel, joined by their log-sum-exps."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        causal: bool,
        rows: list[int],
        *pairs: Tensor | None,
    ) -> Tensor:
        own, sums = _forward(query, key, value, 0.0, causal, attn_mask=mask, scale=scaling)
        output, joint = torch.empty_like(query), torch.empty_like(sums)
        for part, keys, values in _parts(rows, pairs):
            if keys is None or values is None:
                output[part], joint[part] = own[part], sums[part]
                continue
            given = (query, own, sums[..., None])
            flat, flat_own, flat_sums = (_flat(each[part], len(keys)) for each in given)
            inputs = (flat, flat_own, flat_sums, keys, values, scaling)
            both, all_sums = _join_by_products(*inputs) or _join_by_kernel(*inputs)
            output[part] = _rows(both, query[part])
            joint[part] = _rows(all_sums, query[part])[..., 0]
        by_products = query.dtype == torch.bfloat16
        held = by_products and any(each is not None for each in pairs)
        share = (sums - joint).exp() if held else None
        ctx.save_for_backward(query, key, value, mask, output, joint, share, *pairs)
        ctx.plan = (scaling, causal, rows, by_products)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        query, key, value, mask, output, joint, share, *pairs = ctx.saved_tensors
        scaling, causal, rows, by_products = ctx.plan
        gradient = gradient.contiguous()
        own = (gradient, query, key, value, output)
        if by_products:
            d_query, d_key, d_value = _own_gradients(*own, share, mask, scaling, causal)
        else:
            d_query, d_key, d_value = _backward(
                *own, joint, 0.0, causal, attn_mask=mask, scale=scaling
            )
        d_pairs: list[Tensor | None] = []
        for part, keys, values in _parts(rows, pairs):
            if keys is None or values is None:
                d_pairs += [None, None]
                continue
            given = (query, gradient, output, joint[..., None])
            flat, flat_gradient, flat_output, flat_joint = (
                _flat(each[part], len(keys)) for each in given
            )
            trained: bool = ctx.needs_input_grad[7 + len(d_pairs)]
            shared, *of_pair = _gradients(
                flat, flat_gradient, flat_output, flat_joint, keys, values, scaling, trained
            )
            d_pairs += of_pair
            d_query[part] += _rows(shared, query[part])
        return d_query, d_key, d_value, None, None, None, None, *d_pairs


def _join_by_kernel(
    query: Tensor, own: Tensor, sums: Tensor, key: Tensor, value: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Joins the rows' own part with that of the context, computed by the fused kernel.

    Args:
        query: (kv_heads, queries, head_dim).
        own: Output of the rows' own part, as ``query``.
        sums: Its log-sum-exp, (kv_heads, queries, 1).
        key: (kv_heads, positions, head_dim).
        value: As ``key``.
        scaling: Factor of the logits.

    Returns:
        Output and log-sum-exp of both parts.
    """
    shared, others = _forward(query[None], key[None], value[None], 0.0, scale=scaling)
    others = others[0, ..., None]
    both = torch.logaddexp(sums, others)
    return own * (sums - both).exp() + shared[0] * (others - both).exp(), both


def _join_by_products(
    query: Tensor, own: Tensor, sums: Tensor, key: Tensor, value: Tensor, scaling: float
) -> tuple[Tensor, Tensor] | None:
    """Like `_join_by_kernel`, in bfloat16 by matrix products, without the maximum of a softmax.

    Arguments and result are those of `_join_by_kernel`.

    Returns:
        None if a query's own part is too small for this, or the type isn't bfloat16.
    """
    if query.dtype != torch.bfloat16 or sums.min() < _LEAST_SUM:
        return None
    weights = _weights(query, key, sums, scaling)  # of the own part's sum
    total = 1 + weights.sum(-1, keepdim=True)
    if not total.max() < _MOST_TOTAL:
        return None
    return torch.baddbmm(own, weights, value) / total, sums + total.float().log()


def _weights(query: Tensor, key: Tensor, sums: Tensor, scaling: float) -> Tensor:
    """exp(logits - sums), (kv_heads, queries, positions).

    In bfloat16 two more channels subtract the sums, in two pieces so that they aren't rounded::

        query  [ q | -high  -low ]     keys  [ scaling * k | 1 1 ]
    """
    if query.dtype != torch.bfloat16:
        return ((query * scaling) @ key.transpose(-1, -2)).sub_(sums).exp_()
    high = sums.to(query.dtype)
    queries = torch.cat([query, -high, (high - sums).to(query.dtype)], -1)
    keys = torch.nn.functional.pad(key * scaling, (0, 2), value=1)
    return (queries @ keys.transpose(-1, -2)).exp_()


def _gradients(
    query: Tensor,
    gradient: Tensor,
    output: Tensor,
    sums: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    trained: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of a context's queries and, if it is trained, of its keys and values.

    Args:
        query: (kv_heads, queries, head_dim).
        gradient: Of the output, as ``query``.
        output: Of both parts of attention together, as ``query``.
        sums: Log-sum-exp of both parts, (kv_heads, queries, 1).
        key: (kv_heads, positions, head_dim).
        value: As ``key``.
        scaling: Factor of the logits.
        trained: Whether the keys' and values' gradients are wanted.
    """
    rounded = query.dtype == torch.bfloat16
    if sums.abs().max() > _MOST_SUM if rounded else trained:
        single = (each[None] for each in (gradient, query, key, value, output))
        found = _backward(*single, sums[None, ..., 0], 0.0, False, scale=scaling)
        d_query, d_key, d_value = (each[0] for each in found)
        return d_query, d_key, d_value
    weights = _weights(query, key, sums, scaling)
    along = (gradient * output).sum(-1, keepdim=True)
    extended = torch.nn.functional.pad(value, (0, 1), value=1)
    inner = torch.cat([gradient, -along], -1) @ extended.transpose(-1, -2)
    inner *= weights
    d_query = (inner @ key) * scaling
    if not trained:
        return d_query, None, None
    return (
        d_query,
        (inner.transpose(-1, -2) @ query) * scaling,
        weights.transpose(-1, -2) @ gradient,
    )


def _own_gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    share: Tensor | None,
    mask: Tensor | None,
    scaling: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value from the rows' own part, by matrix products.

    Args:
        gradient: Of the output, as ``query``.
        query: (batch, heads, queries, head_dim); `key` and `value` with their own length.
        key: As ``query``.
        value: As ``query``.
        output: Of both parts together, as ``query``.
        share: Of the own part in the joint softmax, (batch, heads, queries); None: all.
        mask: Additive, or None.
        scaling: Factor of the logits.
        causal: As in `attend_shared`.
    """
    d_query, d_key, d_value = map(torch.empty_like, (query, key, value))
    along = (gradient * output).sum(-1, keepdim=True)
    rows = max(1, _MOST_WEIGHTS // (query[0, ..., 0].numel() * key.shape[2]))
    for begin in range(0, len(query), rows):
        part = slice(begin, begin + rows)
        given, scaled = gradient[part], query[part] * scaling
        seen = mask if mask is None or len(mask) == 1 else mask[part]
        weights = _logits(scaled, key[part], seen, causal).softmax(-1)
        if share is not None:
            weights *= share[part, ..., None]
        d_value[part] = weights.transpose(-1, -2) @ given
        inner = (given @ value[part].transpose(-1, -2)).sub_(along[part]).mul_(weights)
        d_query[part] = inner @ (key[part] * scaling)
        d_key[part] = inner.transpose(-1, -2) @ scaled
    return d_query, d_key, d_value


def _logits(scaled: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """(batch, heads, queries, keys) of scaled queries."""
    logits = scaled @ key.transpose(-1, -2)
    if mask is not None:
        return logits.add_(mask)  # in place: the product's backward does not need its result
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=key.device).triu_(1)
        return logits.masked_fill_(later, torch.finfo(logits.dtype).min)
    return logits


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    rows: Sequence[int],
    pairs: Sequence[Tensor | None],
    scaling: float,
    causal: bool,
    dropout: float,
) -> Tensor:
    """Like `attend_shared`, with all logits written out."""
    kv_heads = key.shape[1]
    group = query.shape[1] // kv_heads
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scaled = query * scaling
    logits = _logits(scaled, key, mask, causal)
    outputs = []
    for part, keys, values in _parts(rows, pairs):
        if keys is None or values is None:
            weights, share = _drop(logits[part].softmax(-1), dropout)
            outputs.append(weights @ value[part] / share)
            continue
        shared = _rows(_flat(scaled[part], kv_heads) @ keys.transpose(-1, -2), query[part])
        weights, share = _drop(torch.cat([shared, logits[part]], -1).softmax(-1), dropout)
        positions = keys.shape[1]
        front = _flat(weights[..., :positions], kv_heads) @ values
        own = weights[..., positions:] @ value[part]
        outputs.append((_rows(front, query[part]) + own) / share)
    return torch.cat(outputs)


def _drop(weights: Tensor, probability: float) -> tuple[Tensor, float]:
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
