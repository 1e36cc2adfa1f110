"""A named choice of the search space, made soft by a relaxation."""

import torch
from torch import nn


class Decision(nn.Module):
    """A choice among named options, stored as one logit per option.

    A decision only stores its logits. A relaxation (``peml.search``) turns them into weights
    while the search runs; at the end the option with the largest logit is chosen.

    Args:
        name: Name of the decision in its search space, such as ``cell.0``.
        options: Names of the options, at least two.
        logits: Initial logits; None: zeros, so that no option is preferred.

    Attributes:
        logits: Architecture parameters alpha, (options,).
    """

    def __init__(
        self, name: str, options: tuple[str, ...], logits: tuple[float, ...] | None = None
    ) -> None:
        super().__init__()
        if len(options) < 2 or len(set(options)) != len(options):
            raise ValueError(f"decision {name!r} needs two or more different options: {options}")
        self.name = name
        self.options = options
        self.logits = nn.Parameter(torch.tensor(logits or (0.0,) * len(options)))

    def extra_repr(self) -> str:
        """Name and options, for ``print(supernet)``."""
        return f"{self.name}: {', '.join(self.options)}"
