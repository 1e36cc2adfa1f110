"""How far two results of the same computation, done in two ways, are apart."""

from __future__ import annotations

from torch import Tensor


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value; NaN if either has one."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
