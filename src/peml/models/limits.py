"""What one forward pass computes and holds at most, by the kind of device."""

import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PassLimits:
    """Limits of a pass.

    Attributes:
        tokens: Most tokens that a pass computes when rows are scored, padding included. A CPU is
            faster with few (1.3 to 1.9 times, benchmarks/RESULTS.md): its caches are small.
        logits: Most logits that are held at once; in training, each takes about 12 bytes. More on
            a GPU, where every chunk reads the output layer's weights from memory.
    """

    tokens: int
    logits: int


PASS_LIMITS = {"cpu": PassLimits(1024, 2**23), "gpu": PassLimits(sys.maxsize, 2**26)}


def pass_limits(device: torch.device) -> PassLimits:
    """The limits on a device."""
    return PASS_LIMITS["cpu" if device.type == "cpu" else "gpu"]
