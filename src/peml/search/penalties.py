"""Penalties on the logits, added to the loss that moves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["beta_decay", "entropy"]

_SMALLEST = 1e-12


def entropy(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean entropy of the decisions, in units of the largest possible; it makes them decide.

    0 where every decision is sure, 1 where none has a preference.

    Args:
        logits: Of each decision, (options,); minus infinity where an option was struck out.
        temperature: Of the softmax whose entropy it is.

    Returns:
        A scalar.
    """
    values = []
    for row in logits:
        weights = (row / temperature).softmax(-1)
        # Clamped in the logarithm: what was struck out weighs 0.
        summed = -(weights * weights.clamp_min(_SMALLEST).log()).sum()
        values.append(summed / torch.tensor(float(len(row))).log().to(row.device))
    return torch.stack(values).mean()


def beta_decay(logits: Sequence[Tensor]) -> Tensor:
    """beta-DARTS (arXiv 2203.01665, section 3.2): a decay of the weights, not of the logits.

    The loss is the smooth maximum ``log sum exp`` of a decision's logits, whose gradient is the
    softmax: it pulls the largest logit down most, so that no option runs away early, which is
    what skip does while the learnt operations still learn.

    Args:
        logits: Of each decision, (options,).

    Returns:
        The mean over the decisions, a scalar.
    """
    return torch.stack([row.logsumexp(-1) for row in logits]).mean()
