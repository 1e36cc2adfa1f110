"""The outcomes of a search's decisions: the choice, how clear it was, and any overruling.

The weights reported are those at the end of the *free* search, when the decisions stopped moving. A
cool-down then moves them to exactly 1 for the chosen options, whatever they were, so later weights
say nothing. An option's weight is its mean part in a training step, averaged over the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peml.records.metrics import Decisions
from peml.reporting.run.results import History
from peml.reporting.summary import join_names

MARGIN = 0.1
"""A decision whose largest weight leads the next, or an even share, by less is undecided."""

Weights = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decision.

    `weight` is that at the end of the free search. The runner-up is the strongest other option;
    empty if nothing is known of the others. `guarded` says whether a guard or the budget overruled
    the largest weight, `fitted` whether it was the budget, `undecided` whether the weights are too
    near to each other to have chosen anything.
    """

    name: str
    chosen: str
    weight: float
    runner_up: str
    runner_up_weight: float
    guarded: bool = False
    fitted: bool = False
    undecided: bool = False

    @property
    def note(self) -> str:
        """A remark on the choice; empty if the weights explain it."""
        if self.fitted:
            return "chosen to fit the budget"
        if self.guarded:
            return "chosen by the guard against collapse"
        return "undecided" if self.undecided else ""


def judge(
    weights: Weights,
    choices: Mapping[str, str],
    *,
    guarded: Sequence[str] = (),
    fitted: Sequence[str] = (),
    by_weight: bool = True,
) -> list[Outcome]:
    """The outcome of each decision, from its weights at the end of the free search.

    The chosen option, if not in `choices` yet, is the one with the largest weight. A guard or the
    budget overruled it in `guarded` decisions, the budget in those `fitted`. Unless weights choose
    (`by_weight`), close weights leave nothing undecided.
    """
    outcomes = []
    for name, options in weights.items():
        chosen = choices.get(name) or max(options, key=options.__getitem__)
        others = {option: weight for option, weight in options.items() if option != chosen}
        # All zero after a cool-down, so their order means nothing.
        runner_up = max(others, key=others.__getitem__) if any(others.values()) else ""
        overruled, close = name in guarded, _is_close(options)
        weight = options.get(chosen, 0.0)
        # A budget shifts the logits in training steps differently than for the choices.
        shifted = by_weight and not overruled and not close and weight < max(options.values())
        outcomes.append(
            Outcome(
                name=name,
                chosen=chosen,
                weight=weight,
                runner_up=runner_up,
                runner_up_weight=others.get(runner_up, 0.0),
                guarded=overruled,
                fitted=name in fitted or shifted,
                undecided=by_weight and not overruled and close,
            )
        )
    return outcomes


def _is_close(options: Mapping[str, float]) -> bool:
    if len(options) < 2:
        return False
    first, second, *_ = sorted(options.values(), reverse=True)
    return first - max(second, 1 / len(options)) < MARGIN


def judge_found(found_by: Mapping[str, Any], choices: Mapping[str, str]) -> list[Outcome]:
    """The outcomes from a genotype's record of its search; empty if nothing was searched."""
    weights = found_by.get("weights")
    if not isinstance(weights, Mapping):
        return []
    known = {
        name: found_by[name] for name in ("guarded", "fitted", "by_weight") if name in found_by
    }
    return judge(weights, choices, **known)


def list_outcomes(history: History) -> list[Outcome]:
    """The outcome of each decision of a run, or its state while the search runs."""
    course, made = free_course(history), history.discretise
    if not course or made is None:
        return judge(course[-1].weights, {}) if course else []
    overruled = {"guarded": made.guarded, "fitted": made.fitted}
    return judge(course[-1].weights, made.choices, by_weight=made.free.by_weight, **overruled)


def free_course(history: History) -> list[Decisions]:
    """The decisions' weights step by step to the end of the free search."""
    if history.discretise is None:
        return history.decisions
    free = history.discretise.free
    before = [record for record in history.decisions if record.step < free.step]
    return [*before, Decisions(phase="search", step=free.step, weights=free.weights)]


def describe_search(history: History) -> list[str]:
    """Sentences to read with the table of outcomes; empty without a search."""
    made, outcomes = history.discretise, list_outcomes(history)
    if made is None or not outcomes:
        return []
    sentences = [
        f"The weights are those at step {made.free.step}, the end of the free search: the average "
        "part that each option had in a training step."
    ]
    if made.step > made.free.step:
        sentences.append(_cooldown(outcomes, made.step))
    if not made.free.by_weight:
        sentences.append(
            "Options were chosen by how much the held-out loss rises without them, not by these "
            "weights."
        )
    undecided = [outcome.name for outcome in outcomes if outcome.undecided]
    if undecided:
        sentences.append(
            f"Undecided, less than {MARGIN:g} ahead of the next option or of an even share: "
            f"{join_names(undecided)}. Another seed may choose otherwise there."
        )
    return sentences


def _cooldown(outcomes: Sequence[Outcome], end: int) -> str:
    least = min(outcomes, key=lambda outcome: outcome.weight)
    most = max(outcomes, key=lambda outcome: outcome.weight)
    shown = f"{least.weight:.2f} ({least.name})"
    if least.name != most.name:
        shown += f" to {most.weight:.2f} ({most.name})"
    return (
        f"By step {end}, the cool-down moved the chosen options to 1 and all others to 0. Before "
        f"it, the chosen options had {shown}."
    )
