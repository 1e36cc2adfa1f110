"""The network that a genotype describes, trained after the search and deployed."""

import torch
from torch import Tensor, nn

from peml.prefix.cell import Cell
from peml.prefix.genotype import Genotype
from peml.prefix.head import OutputHead, PrefixFrame
from peml.prefix.prefix import OnContext, Prefix, PrefixStart
from peml.prefix.shape import PrefixShape


class PrefixNetwork(nn.Module):
    """A small network that computes the prefix once per step, independent of the batch.

    ::

        embeddings (length, width) -> cell -> ... -> cell -> norm -> head
            -> corrections (active layers, 2, kv_heads, length, head_dim)
            -> limited, added to quiet keys and zero values

    A new network returns exactly its start. Layers that are off keep the start's values in the
    tensor and are marked inactive.

    Raises:
        ConfigError: If the genotype was made for another shape.
    """

    def __init__(self, genotype: Genotype, shape: PrefixShape, start: PrefixStart) -> None:
        super().__init__()
        genotype.check_fits(shape)
        self.genotype = genotype
        self.shape = shape
        width = genotype.width
        self.embeddings = nn.Parameter(torch.randn(genotype.length, width))
        self.cells = nn.ModuleList(Cell(name, width, genotype.length) for name in genotype.cells)
        self.norm = nn.LayerNorm(width)
        layers, rank = len(genotype.active_layers), genotype.head_rank
        self.head = OutputHead(genotype.head, width, layers, shape, rank)
        self.frame = PrefixFrame(shape, start, genotype.radius, genotype.length)
        # As a tensor, since a list of indices would be copied to the device in each step.
        active = torch.tensor(genotype.active_layers, dtype=torch.long)
        self.register_buffer("_active", active, persistent=False)
        self._active: Tensor

    def forward(self, on: OnContext | None = None) -> Prefix:
        """The prefix, with gradients; its ``.detached()`` is the static prefix.

        With a context, its output is added to that instead of the start.
        """
        hidden: Tensor = self.embeddings
        if on is not None:
            hidden = hidden[: len(on.embeddings)] + on.embeddings
        presence = hidden.new_ones(len(hidden))
        for cell in self.cells:
            hidden = cell(hidden, presence)
        raw = self.head(self.norm(hidden))
        place = self.frame.moved if on is None else self.frame.limited
        correction = place(raw, self._active)
        if len(self._active) < self.shape.layers:
            whole = correction.new_zeros(self.shape.layers, *correction.shape[1:])
            correction = whole.index_copy(0, self._active, correction)
        base = self.frame.base if on is None else on.rows
        return Prefix(base + correction, self.genotype.layers)
