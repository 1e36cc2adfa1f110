"""Compares two ways of the same computation, up to rounding."""

import torch
from torch import Tensor


def unexplained(
    found: Tensor,
    expected: Tensor,
    *,
    least: float = 1e-3,
    times: float = 8.0,
    dtype: torch.dtype | None = None,
) -> float:
    """The largest difference that rounding doesn't explain; 0 if it explains all.

    Differences are shares of the largest value of `expected`. Tolerated are the share `least`, in
    any type (a wrong position or mask gives far more), and `times` the rounding of `dtype`, by
    default that of ``expected``.

    Returns:
        NaN if a result contains NaN.
    """
    share = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).double()
    tolerated = max(least, times * torch.finfo(dtype or expected.dtype).eps)
    # compared as a tensor: one without values, in an estimate, answers yes
    return 0.0 if share <= tolerated else share.item()
