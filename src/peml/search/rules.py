"""Rules with a memory: early freeze, progressive pruning, perturbation-based selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peml.prefix import Decision
from peml.search.choosing import Memory

__all__ = ["decide", "strike_out", "watch_leaders"]


def watch_leaders(memory: Memory, decisions: Mapping[str, Decision], needed: float) -> None:
    """Freezes the logits once the strongest operation of every cell is steady.

    DARTS+ (arXiv 1909.06035, section 3.2) stops a search by the same sign.

    Args:
        memory: Is brought up to date.
        decisions: With their logits.
        needed: Calls in a row with the same leaders.
    """
    leaders = {
        name: decision.options[int(decision.logits.argmax())]
        for name, decision in decisions.items()
        if name.startswith("cell.")
    }
    memory.steady = memory.steady + 1 if leaders == memory.leaders else 0
    memory.leaders = leaders
    memory.frozen = memory.frozen or memory.steady >= needed


def strike_out(
    memory: Memory, decisions: Mapping[str, Decision], due: Callable[[int], int]
) -> None:
    """Strikes out the weakest options that are due; the earlier ones of equals stay.

    Args:
        memory: Is brought up to date.
        decisions: With their logits.
        due: How many options a decision of so many has lost by now.
    """
    for name, decision in decisions.items():
        lost = memory.struck_out.get(name, [])
        missing = due(len(decision.options)) - len(lost)
        if missing <= 0:
            continue
        values = dict(zip(decision.options, decision.logits.tolist(), strict=True))
        left = [option for option in reversed(decision.options) if option not in lost]
        weakest = sorted(left, key=values.__getitem__)[:missing]
        memory.struck_out[name] = [*lost, *weakest]


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
