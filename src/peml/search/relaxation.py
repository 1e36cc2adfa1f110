"""How logits become weights that a mixture can be computed and differentiated with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from peml.search.settings import RelaxationName


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
    return softmax(logits + _noise(logits, generator), temperature)


def sampled_path(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One option, with a gradient that needs the output of that option only.

    With ``p = softmax(logits / temperature)``, option k is drawn with probability p_k and weighs
    ``p_k / stop(p_k)``: exactly 1, with the gradient of ``log p_k``. The others weigh 0 and have
    no gradient. Let c_k be what the loss changes by per unit of weight k (the gradient at the
    mixture times option k's output). Then the logits' expected gradient is
    ``sum over k of p_k c_k grad(log p_k) = sum over k of c_k grad(p_k)``, which is the gradient
    of ProxylessNAS (arXiv 1812.00332, equation 4). It takes the outputs of all options there; here
    each comes in as often as it is drawn. GDAS (arXiv 1910.04465) also runs one path, with the
    straight-through weight in place of the quotient, whose expectation is another: it weighs an
    option's term by how often the option is drawn.
    The quotient is DiCE's (arXiv 1802.05098, equation 8).

    Args:
        logits: (..., options).
        temperature: The lower, the surer the largest logit is drawn.
        generator: As for `gumbel`.

    Returns:
        One-hot weights, (..., options).
    """
    drawn = (logits.detach() / temperature + _noise(logits, generator)).argmax(-1)
    probability = softmax(logits, temperature).gather(-1, drawn[..., None])
    one_hot = torch.zeros_like(logits).detach().scatter(-1, drawn[..., None], 1.0)
    return one_hot * (probability / probability.detach())


def _noise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel noise in the shape of the logits."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    smallest = torch.finfo(torch.float64).tiny
    noise = -(-uniform.clamp_min(smallest).log()).clamp_min(smallest).log()
    return noise.to(device=logits.device, dtype=logits.dtype)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One way to make decisions soft.

    Attributes:
        relax: From logits (..., options), temperature and generator to weights (..., options).
        one_path: Whether a step's weights are those of one option, and only that one has to be
            computed.
        fixed_odds: Whether the odds of the options are those of temperature 1 in every step; else
            they get surer as it falls.
    """

    relax: Callable[[Tensor, float, torch.Generator], Tensor]
    one_path: bool = False
    fixed_odds: bool = False


RELAXATIONS: Mapping[RelaxationName, Relaxation] = MappingProxyType(
    {
        "softmax": Relaxation(lambda logits, temperature, generator: softmax(logits, temperature)),
        "gumbel": Relaxation(gumbel, fixed_odds=True),
        "sampled-path": Relaxation(sampled_path, one_path=True),
    }
)
"""By the name they have in a config."""


def relax(
    name: RelaxationName, logits: Tensor, temperature: float, generator: torch.Generator
) -> Tensor:
    """Applies the relaxation of that name; ``softmax`` draws nothing from the generator."""
    return RELAXATIONS[name].relax(logits, temperature, generator)
