"""All prefix networks of a search space in one network."""

from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from peml.prefix.cell import Cell, MixedCell
from peml.prefix.genotype import Genotype
from peml.prefix.head import OutputHead, PrefixFrame
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import OnContext, Prefix, PrefixStart
from peml.prefix.shape import PrefixShape
from peml.prefix.space import SearchSpace


class Decision(nn.Module):
    """A choice among named options, stored as one logit per option.

    A decision only stores its logits. A relaxation (``peml.search``) turns them into weights
    while the search runs; at the end the option with the largest logit is chosen.

    `name` is that in its search space, such as ``cell.0``; there are at least two options. Without
    `logits`, no option is preferred.

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


class PrefixSupernet(nn.Module):
    """A prefix network in which every decision is a weighted mixture of its options.

    The decisions act as follows (g, m, and the weights of operations and heads come from
    ``weights``):

    * cell: ``x + sum over o of w_o o(norm(x))``;
    * length: position ``p`` has presence ``m_p``, the sum of weights of all lengths above ``p``;
    * layer: ``g``, the weight of ``on``;
    * head: the weighted sum of the heads' outputs;
    * together: ``key = silent key + g m (start - silent key + correction)`` and
      ``value = g m (start + correction)``. With weight 0, a position or layer gets no attention,
      whatever its start; otherwise a key with a loud start would take attention during the search,
      and disappear only when the network is discretised.

    On a context, ``g`` weighs the layer's attention with it against that without it (`Prefix`).

    With one-hot weights it equals the network that :meth:`discretise` returns.

    `lead` is the initial logit of the largest option of each decision of size; the smallest option
    starts at 0, others in proportion to their size.

    Attributes:
        decisions: Name to decision, in the space's order; they hold the logits.

    Weights start from torch's global generator, as in any ``nn.Module``.
    """

    def __init__(
        self, space: SearchSpace, shape: PrefixShape, start: PrefixStart, lead: float = 0.0
    ) -> None:
        super().__init__()
        if space.layers != shape.layers:
            raise ValueError(f"a space over {space.layers} layers does not fit {shape}")
        self.space = space
        self.shape = shape
        sizes = space.sizes()
        # Module names can't hold the dots of decision names.
        self._decisions = nn.ModuleList(
            Decision(name, options, tuple(lead * size for size in sizes.get(name, ())))
            for name, options in space.decisions().items()
        )
        self.embeddings = nn.Parameter(torch.randn(space.max_length, space.width))
        self.cells = nn.ModuleList(
            MixedCell(space.operations, space.width, space.max_length) for _ in range(space.cells)
        )
        self.norm = nn.LayerNorm(space.width)
        self.heads = nn.ModuleDict(
            {
                kind: OutputHead(kind, space.width, shape.layers, shape, space.head_rank)
                for kind in space.heads
            }
        )
        self.frame = PrefixFrame(shape, start, space.radius, space.max_length)
        reach = torch.tensor(space.lengths)[:, None] > torch.arange(space.max_length)[None]
        self.register_buffer("_reach", reach.float(), persistent=False)
        self._reach: Tensor  # (lengths, positions): 1 if a length includes a position

    @property
    def decisions(self) -> dict[str, Decision]:
        """Name to decision, in the space's order."""
        return {decision.name: decision for decision in self._decisions}  # type: ignore[misc]

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The decisions' logits."""
        return [decision.logits for decision in self.decisions.values()]

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but the decisions' logits."""
        logits = {id(parameter) for parameter in self.architecture_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in logits]

    def uniform_weights(self) -> dict[str, Tensor]:
        """Equal weights: 1 / k for each of k options."""
        return {
            name: torch.full_like(decision.logits, 1 / len(decision.options)).detach()
            for name, decision in self.decisions.items()
        }

    def one_hot(self, choices: Mapping[str, str]) -> dict[str, Tensor]:
        """Weights of the network with these choices: 1 for the chosen option of each decision.

        Raises:
            ConfigError: If the choices don't fit the space.
        """
        complete = self.space.complete(choices)
        weights = {}
        for name, decision in self.decisions.items():
            weights[name] = torch.zeros_like(decision.logits).detach()
            weights[name][decision.options.index(complete[name])] = 1
        return weights

    def forward(
        self,
        weights: Mapping[str, Tensor],
        *,
        prune: bool | None = None,
        on: OnContext | None = None,
    ) -> Prefix:
        """The prefix of a mixture.

        Pruning drops everything with weight exactly zero: operations and heads are not run,
        trailing positions are cut, layers become inactive. It has to read the weights, for which a
        GPU would have to wait in every step, and dropped options get no gradient. So by default it
        prunes only if no weight has a gradient (one-hot weights, evaluation); the soft search
        computes everything at full length.

        Args:
            weights: The weights of every decision's options, (options,), with sum 1.
            prune: Whether to drop options with weight zero; None: as described. Use True if a step
                runs one option of each decision and the others should get no gradient.
            on: A context that the output is added to, instead of the start.

        Returns:
            The prefix, at most as long as the longest candidate.

        Raises:
            ValueError: If the weights of a decision are missing or of the wrong shape.
        """
        self._check(weights)
        if prune is None:
            prune = not any(weight.requires_grad for weight in weights.values())
        used: dict[str, list[int]] = {}
        active, length = (True,) * self.shape.layers, self.space.max_length
        if prune:
            used, active, length = self._prune(weights)
        # How much each position is part of the prefix, (positions,).
        presence = weights["length"] @ self._reach if "length" in weights else self._reach[0]
        presence, hidden = presence[:length], self.embeddings[:length]
        if on is not None:
            hidden = hidden[: len(on.embeddings)] + on.embeddings
            presence = presence[: len(hidden)]
        for index, cell in enumerate(self.cells):
            name = f"cell.{index}"
            hidden = cell(hidden, presence, weights.get(name), used.get(name))
        raw = self._head_output(self.norm(hidden), weights.get("head"), used.get("head"))
        gates = None
        if self.space.layer_gates:
            each = [weights[f"layer.{layer}"] for layer in range(self.shape.layers)]
            gates = torch.stack(each)[:, 0]
        if on is not None:
            return Prefix(on.rows + self.frame.limited(raw), active, gates)
        scale = presence[:, None]
        if gates is not None:
            scale = gates[:, None, None, None, None] * scale
        return Prefix(self.frame.base + self.frame.moved(raw) * scale, active)

    def discretise(
        self, choices: Mapping[str, str], found_by: Mapping[str, JsonValue] | None = None
    ) -> PrefixNetwork:
        """The network with these choices and copies of this supernet's weights.

        ``found_by`` is stored in the genotype.

        Raises:
            ConfigError: If the choices don't fit the space.
        """
        genotype = Genotype.from_choices(self.space, self.shape, choices, found_by)
        with torch.random.fork_rng(devices=[]):  # its initial weights are all replaced
            network = PrefixNetwork(genotype, self.shape, self.frame.start())
        network.to(self.embeddings.device)
        with torch.no_grad():
            network.embeddings.copy_(self.embeddings[: genotype.length])
        network.norm.load_state_dict(self.norm.state_dict())
        for mixed, cell, name in zip(self.cells, network.cells, genotype.cells, strict=True):
            assert isinstance(mixed, MixedCell)
            assert isinstance(cell, Cell)
            mixed.copy_to(cell, name)
        head = self.heads[genotype.head]
        assert isinstance(head, OutputHead)
        network.head.inherit(head, genotype.active_layers)
        return network

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        for name, decision in self.decisions.items():
            if name not in weights or weights[name].shape != decision.logits.shape:
                given = tuple(weights[name].shape) if name in weights else "nothing"
                raise ValueError(
                    f"decision {name!r} needs weights of shape ({len(decision.options)},), "
                    f"got {given}"
                )

    def _head_output(
        self, hidden: Tensor, weights: Tensor | None, used: list[int] | None
    ) -> Tensor:
        """Corrections before `bounded`, (layers, 2, kv_heads, length, head_dim)."""
        heads = list(self.heads.values())
        if weights is None:
            only: Tensor = heads[0](hidden)
            return only
        indices = range(len(heads)) if used is None else used
        return torch.stack([weights[index] * heads[index](hidden) for index in indices]).sum(0)

    def _prune(
        self, weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, list[int]], tuple[bool, ...], int]:
        """Options, layers and length whose weight is not exactly zero; read in one transfer."""
        names = list(self.decisions)
        used: dict[str, list[int]] = {}
        if names:
            sizes = [weights[name].shape[0] for name in names]
            values = torch.cat([weights[name].detach().float() for name in names]).cpu()
            for name, part in zip(names, values.split(sizes), strict=True):
                used[name] = part.nonzero().flatten().tolist()
        gated = self.space.layer_gates
        active = tuple(
            not gated or 0 in used[f"layer.{layer}"] for layer in range(self.shape.layers)
        )
        length = max(self.space.lengths[index] for index in used.get("length", [0]))
        return used, active, length
