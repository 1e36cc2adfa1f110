"""From logits to choices: the best options, the search's memory, and the guards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from peml.prefix.operations.registry import SKIP
from peml.prefix.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Choices:
    """The outcome of a search.

    `choices` has an option by decision. In those of `guarded`, in the space's order, a guard or the
    budget replaced the best option; in those of `fitted`, the budget did.
    """

    choices: dict[str, str]
    guarded: tuple[str, ...]
    fitted: tuple[str, ...] = ()


@dataclass
class Memory:
    """The state of a search besides its logits, as plain values.

    `decided` are the decisions made so far, with their option; in those of `guarded`, a guard
    replaced the best option. `scores` say by decision and option how much the held-out loss rises
    without the option.
    """

    decided: dict[str, str] = field(default_factory=dict)
    guarded: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


def choose(
    space: SearchSpace, logits: Mapping[str, Mapping[str, float]], memory: Memory, skip_limit: int
) -> Choices:
    """Made decisions, and the largest logit of each open decision, after the guards.

    * At most ``skip_limit`` cells may be skip. If more would, the cells with the smallest gap
      between skip and their best other option take that option.
    * If every layer would be off, the one with the smallest gap between off and on stays on.

    Of equal logits, the earlier option is chosen.
    """
    undecided = {name: options for name, options in logits.items() if name not in memory.decided}
    best = {name: max(options, key=options.__getitem__) for name, options in undecided.items()}
    choices = {name: memory.decided.get(name) or best[name] for name in logits}
    changes = _guard_cells(space, choices, undecided, skip_limit)
    changes |= _guard_layers(space, choices, undecided)
    guarded = {*changes, *memory.guarded}
    return Choices(choices | changes, tuple(name for name in logits if name in guarded))


def may_choose(
    space: SearchSpace, memory: Memory, name: str, option: str, *, skip_limit: int
) -> bool:
    """Whether the guards allow an option if decisions are made one after another."""
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

    ``scores`` says how much the held-out loss rises without each option.
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
    """Replacement operations for the cells that may not be skip."""
    cells = (f"cell.{index}" for index in range(space.cells))
    skips = [cell for cell in cells if choices.get(cell) == SKIP]
    runners_up: dict[str, tuple[float, str]] = {}  # cell: (lead of skip, best other option)
    for name in skips:
        others = {o: value for o, value in logits.get(name, {}).items() if o != SKIP}
        if others:
            best = max(others, key=others.__getitem__)
            runners_up[name] = (logits[name][SKIP] - others[best], best)
    excess = max(0, len(skips) - skip_limit)
    closest = sorted(runners_up, key=lambda name: runners_up[name][0])[:excess]
    return {name: runners_up[name][1] for name in closest}


def _guard_layers(
    space: SearchSpace, choices: Mapping[str, str], logits: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """The layer to keep on if all would be off."""
    gates = [f"layer.{index}" for index in range(space.layers)]
    if any(choices.get(name, "on") == "on" for name in gates):
        return {}
    open_gates = [name for name in gates if name in logits]
    return {min(open_gates, key=lambda name: logits[name]["off"] - logits[name]["on"]): "on"}
