"""Cells: one normalisation, one operation (or a mixture of candidates), one residual connection."""

import torch
from torch import Tensor, nn

from peml.prefix.operations.operation import Operation
from peml.prefix.operations.registry import SKIP, make_operation


class Cell(nn.Module):
    """A cell with a single operation: ``x + operation(norm(x))``."""

    def __init__(self, name: str, width: int, length: int) -> None:
        super().__init__()
        # Skip ignores its input, so a norm's parameters would never get a gradient.
        self.norm = nn.Identity() if name == SKIP else nn.LayerNorm(width)
        self.operation = make_operation(name, width, length)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        """Hidden states after the cell, (length, width)."""
        contribution: Tensor = self.operation(self.norm(x), presence)
        return x + contribution


class MixedCell(nn.Module):
    """A cell of the supernet: ``x + sum over o of weight_o * o(norm(x))``.

    ``names`` are the candidates, in the order of the cell's decision.
    """

    def __init__(self, names: tuple[str, ...], width: int, length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.operations = nn.ModuleDict(
            {name: make_operation(name, width, length) for name in names}
        )

    def forward(
        self, x: Tensor, presence: Tensor, weights: Tensor | None, used: list[int] | None = None
    ) -> Tensor:
        """Hidden states after the cell.

        Args:
            x: Hidden states, (length, width).
            presence: How much each position is part of the prefix, 0 to 1, (length,).
            weights: Weight of each candidate, (candidates,); None for a single candidate.
            used: Indices of the candidates to run; all others must have weight 0.

        Returns:
            (length, width).
        """
        normed = self.norm(x)
        operations: list[Operation] = list(self.operations.values())  # type: ignore[arg-type]
        if weights is None:
            only: Tensor = operations[0](normed, presence)
            return x + only
        if used is not None:
            operations = [operations[index] for index in used]
            weights = weights[used]
        outputs = torch.stack([operation(normed, presence) for operation in operations])
        return x + torch.einsum("o,olw->lw", weights.to(outputs.dtype), outputs)

    @torch.no_grad()
    def copy_to(self, cell: Cell, name: str) -> None:
        """Copies this cell's norm and the chosen operation into a single-operation cell."""
        if isinstance(cell.norm, nn.LayerNorm):
            cell.norm.load_state_dict(self.norm.state_dict())
        chosen: Operation = self.operations[name]  # type: ignore[assignment]
        cell.operation.inherit(chosen)
