"""From logits to choices: the strongest options, what a search remembers, and the guards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from peml.prefix import SKIP, SearchSpace


@dataclass(frozen=True, slots=True)
class Choices:
    """The outcome of a search.

    Attributes:
        choices: Decision name to option.
        guarded: Decisions where a guard or the budget overruled the best option, in the space's
            order.
        fitted: Those of them that the budget overruled.
    """

    choices: dict[str, str]
    guarded: tuple[str, ...]
    fitted: tuple[str, ...] = ()


@dataclass
class Memory:
    """What a search remembers from step to step besides its logits; plain values.

    Attributes:
        decided: Decisions that are made already.
        guarded: Those of them where a guard overruled the best option.
        scores: By decision and option, how much the held-out loss rises without the option.
    """

    decided: dict[str, str] = field(default_factory=dict)
    guarded: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


def choose(
    space: SearchSpace,
    logits: Mapping[str, Mapping[str, float]],
    memory: Memory,
    skip_limit: int,
) -> Choices:
    """What is decided already, and the largest logit of each other decision, after the guards.

    * Of the cells, at most ``skip_limit`` end as skip. Where more would, those whose best other
      option comes closest to skip take it.
    * If every layer would be switched off, the one whose ``on`` comes closest stays on.

    Where logits are equal, the earlier option is taken.

    Args:
        space: The search space.
        logits: Of every decision, by option.
        memory: What is decided.
        skip_limit: How many cells may end as skip.
    """
    left = {name: options for name, options in logits.items() if name not in memory.decided}
    best = {name: max(options, key=options.__getitem__) for name, options in left.items()}
    choices = {name: memory.decided.get(name) or best[name] for name in logits}
    changes = _guard_cells(space, choices, left, skip_limit)
    changes |= _guard_layers(space, choices, left)
    overruled = {*changes, *memory.guarded}
    return Choices(choices | changes, tuple(name for name in logits if name in overruled))


def may_choose(
    space: SearchSpace, memory: Memory, name: str, option: str, *, skip_limit: int
) -> bool:
    """Whether the guards allow an option, when decisions are made one after another."""
    if option == SKIP:
        skips = sum(choice == SKIP for choice in memory.decided.values())
        return skips < skip_limit
    if name.startswith("layer.") and option == "off":
        others = (f"layer.{layer}" for layer in range(space.layers))
        return any(memory.decided.get(other) != "off" for other in others if other != name)
    return True


def decide(
    memory: Memory, name: str, scores: dict[str, float], allowed: Callable[[str], bool]
) -> None:
    """Makes a decision: the option whose removal hurts most (arXiv 2108.04392, algorithm 1).

    Args:
        memory: Is brought up to date.
        name: The decision.
        scores: How much the held-out loss rises without each option.
        allowed: What the guards say to an option.
    """
    best = max(scores, key=scores.__getitem__)
    option = max(filter(allowed, scores), key=scores.__getitem__)
    memory.scores[name] = scores
    memory.decided[name] = option
    if option != best:
        memory.guarded.append(name)


def _guard_cells(
    space: SearchSpace,
    choices: Mapping[str, str],
    logits: Mapping[str, Mapping[str, float]],
    skip_limit: int,
) -> dict[str, str]:
    """Other operations for the cells that may not be skip."""
    skips = [cell for cell in _cells(space) if choices.get(cell) == SKIP]
    rivals: dict[str, tuple[float, str]] = {}  # cell: (lead of skip, best other option)
    for name in skips:
        others = {o: value for o, value in logits.get(name, {}).items() if o != SKIP}
        if others:
            best = max(others, key=others.__getitem__)
            rivals[name] = (logits[name][SKIP] - others[best], best)
    excess = max(0, len(skips) - skip_limit)
    closest = sorted(rivals, key=lambda name: rivals[name][0])[:excess]
    return {name: rivals[name][1] for name in closest}


def _guard_layers(
    space: SearchSpace, choices: Mapping[str, str], logits: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """One layer to keep on, where all would be off."""
    gates = [f"layer.{index}" for index in range(space.layers)]
    if any(choices.get(name, "on") == "on" for name in gates):
        return {}
    open_gates = [name for name in gates if name in logits]
    return {min(open_gates, key=lambda name: logits[name]["off"] - logits[name]["on"]): "on"}


def _cells(space: SearchSpace) -> list[str]:
    return [f"cell.{index}" for index in range(space.cells)]
