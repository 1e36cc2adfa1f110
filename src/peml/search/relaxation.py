"""How logits become weights that a mixture can be computed and differentiated with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["RelaxationName", "gumbel", "relax", "softmax"]

RelaxationName = Literal["softmax", "gumbel"]


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """The plain relaxation of DARTS (arXiv 1806.09055, equation 2), with a temperature.

    Args:
        logits: (..., options).
        temperature: Above 0; the lower, the nearer to one-hot.

    Returns:
        Weights that sum to 1, (..., options).
    """
    return (logits / temperature).softmax(-1)


def gumbel(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A sample of the concrete distribution, as SNAS uses it (arXiv 1812.09926, equation 4).

    As the temperature falls, samples become one-hot, with the softmax probabilities of the
    logits.

    Args:
        logits: (..., options).
        temperature: Above 0; the lower, the nearer to one-hot.
        generator: Source of the noise, on the CPU: every device and every process of a run
            gets the same sample.

    Returns:
        Weights that sum to 1, (..., options).
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    smallest = torch.finfo(torch.float64).tiny
    noise = -(-uniform.clamp_min(smallest).log()).clamp_min(smallest).log()
    return softmax(logits + noise.to(device=logits.device, dtype=logits.dtype), temperature)


def relax(
    name: RelaxationName, logits: Tensor, temperature: float, generator: torch.Generator
) -> Tensor:
    """Applies the relaxation of that name; ``softmax`` draws nothing from the generator."""
    if name == "gumbel":
        return gumbel(logits, temperature, generator)
    return softmax(logits, temperature)
