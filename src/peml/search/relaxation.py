"""Turns logits into weights of a differentiable mixture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from peml.search.settings import RelaxationName


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """The plain relaxation of DARTS (arXiv 1806.09055, equation 2), with a temperature.

    Logits are (..., options), and so are the weights, which sum to 1. A lower temperature is nearer
    to one-hot.
    """
    return (logits / temperature).softmax(-1)


def gumbel(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A sample of the concrete distribution, as SNAS uses it (arXiv 1812.09926, equation 4).

    As the temperature falls, samples become one-hot, with the softmax probabilities of the logits,
    (..., options). The noise is drawn on the CPU, so that every device and every process of a run
    gets the same sample.
    """
    return softmax(logits + _noise(logits, generator), temperature)


def sampled_path(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One option, with a gradient that needs the output of that option only.

    With ``p = softmax(logits / temperature)``, option k is drawn with probability p_k and gets the
    weight ``p_k / stop(p_k)``: exactly 1, with the gradient of ``log p_k``. The others get weight 0
    without a gradient. Let c_k be the change of the loss per unit of weight k (the gradient at the
    mixture times option k's output). Then the logits' expected gradient is
    ``sum over k of p_k c_k grad(log p_k) = sum over k of c_k grad(p_k)``, which is the gradient
    of ProxylessNAS (arXiv 1812.00332, equation 4). That needs the outputs of all options; here each
    contributes as often as it is drawn. GDAS (arXiv 1910.04465) also runs one path, but with the
    straight-through weight instead of the quotient, which has another expectation: an option's term
    is weighted by how often the option is drawn. The quotient is DiCE's (arXiv 1802.05098,
    equation 8).

    Args:
        logits: (..., options).
        temperature: Lower makes it more likely to draw the largest logit.
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
    return noise.to(device=logits.device, dtype=logits.dtype, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One way to turn logits into weights.

    Attributes:
        relax: From logits (..., options), temperature and generator to weights (..., options).
        one_path: Whether each step has a single option with weight 1, so that only it has to be
            computed.
        fixed_odds: Whether the options' probabilities are those of temperature 1 in every step;
            else they sharpen as the temperature falls.
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
"""The relaxations by their name in a config."""
