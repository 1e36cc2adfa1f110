"""The search space: the named decisions about a prefix network and the LoRA next to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from peml.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

HeadKind = Literal["full", "low-rank"]


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Linear layers whose LoRAs share one searched rank.

    Attributes:
        name: The layers' path, ``*`` for their numbers: ``encoder.layer.*.attention.self.query``.
        ranks: Candidate ranks, ascending.
        cost: Parameters per unit of rank, over all layers of the group.
    """

    name: str
    ranks: tuple[int, ...]
    cost: int

    @property
    def decision(self) -> str:
        """The decision's name."""
        return f"rank.{self.name}"


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The possible prefix networks, and optionally the ranks of the LoRA next to it.

    The decisions are ``cell.0``, ``cell.1``, ... (which operation), ``length`` (how many
    positions), ``layer.0``, ``layer.1``, ... (``on`` or ``off``), ``head`` (``full`` or
    ``low-rank``) and ``rank.{group}``. A name with a single option is not a decision.

    `operations`, `lengths` (ascending) and `heads` are candidates; `layer_gates` says whether each
    layer's prefix can be switched off. `radius` is the largest correction, relative to the start's
    radii; `ranks` are groups of linear layers whose LoRA's rank is searched.
    """

    layers: int
    cells: int
    operations: tuple[str, ...]
    lengths: tuple[int, ...]
    layer_gates: bool
    heads: tuple[HeadKind, ...]
    head_rank: int
    width: int
    radius: float
    ranks: tuple[RankGroup, ...] = ()

    @property
    def max_length(self) -> int:
        """The longest candidate length."""
        return max(self.lengths)

    def options(self) -> dict[str, tuple[str, ...]]:
        """All names with their options, in order, including names with a single option."""
        on_off = ("on", "off") if self.layer_gates else ("on",)
        return {
            **{f"cell.{cell}": self.operations for cell in range(self.cells)},
            "length": tuple(str(length) for length in self.lengths),
            **{f"layer.{layer}": on_off for layer in range(self.layers)},
            "head": tuple(self.heads),
            **{group.decision: tuple(map(str, group.ranks)) for group in self.ranks},
        }

    def decisions(self) -> dict[str, tuple[str, ...]]:
        """The names with two or more options, with these options, in order."""
        return {name: options for name, options in self.options().items() if len(options) > 1}

    def sizes(self) -> dict[str, tuple[float, ...]]:
        """Relative size of the options of each decision of size: 0 (smallest) to 1 (largest)."""
        return {
            "length": _between(self.lengths),
            **{f"layer.{layer}": (1.0, 0.0) for layer in range(self.layers)},
            "head": tuple(float(kind == "full") for kind in self.heads),
            **{group.decision: _between(group.ranks) for group in self.ranks},
        }

    def complete(self, choices: Mapping[str, str]) -> dict[str, str]:
        """Checks choices and adds the names with a single option.

        `choices` has an option for every decision; names with a single option may be left out.

        Returns:
            One option for every name of :meth:`options`, in order.

        Raises:
            ConfigError: If a decision is missing, unknown or has no such option, or if every
                layer is switched off.
        """
        options = self.options()
        problems = [
            f"there is no decision {name!r}.{nearest(name, options)}"
            for name in choices
            if name not in options
        ]
        complete = {}
        for name, allowed in options.items():
            choice = choices.get(name, allowed[0] if len(allowed) == 1 else "")
            complete[name] = choice
            if not choice:
                problems.append(f"no choice for {name}")
            elif choice not in allowed:
                problems.append(f"{name} can't be {choice!r}.{nearest(choice, allowed)}")
        if not problems and all(complete[f"layer.{i}"] == "off" for i in range(self.layers)):
            problems.append("every layer is off, so there would be no prefix")
        if problems:
            raise ConfigError(
                f"These choices don't describe a prefix network: {'; '.join(problems)}",
                allowed="; ".join(f"{name}: {', '.join(opts)}" for name, opts in options.items()),
                action="correct the choices",
            )
        return complete

    def sample(self, generator: torch.Generator) -> dict[str, str]:
        """Draws random choices, uniform over each decision (for the random-search baseline).

        If all layers are drawn as off, one random layer is switched on.
        """
        import torch

        def draw(count: int) -> int:
            return int(torch.randint(count, (1,), generator=generator))

        choices = {name: opts[draw(len(opts))] for name, opts in self.options().items()}
        if all(choices[f"layer.{i}"] == "off" for i in range(self.layers)):
            choices[f"layer.{draw(self.layers)}"] = "on"
        return choices


def _between(values: tuple[int, ...]) -> tuple[float, ...]:
    """Each value's position between the smallest (0) and the largest (1)."""
    low, reach = min(values), max(values) - min(values)
    return tuple((value - low) / reach if reach else 1.0 for value in values)
