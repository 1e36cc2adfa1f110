"""Controls a search: the decisions' weights in each step, and the choices at its end."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from peml.errors import CheckpointError
from peml.prefix.supernet import Decision, PrefixSupernet
from peml.search.choosing import Choices, Memory, choose, decide, may_choose
from peml.search.relaxation import RELAXATIONS, softmax
from peml.search.settings import SearchSettings
from peml.search.timetable import Timetable

Measure = Callable[[Mapping[str, Tensor]], float]
"""The held-out loss of the supernet for given weights of its decisions."""

_NOTHING: Mapping[str, Collection[str]] = {}
_NOISE, _LEAD, _ORDER = 0, 2, 3
"""The uses of random numbers in a step, each with a separate generator."""


class SearchController:
    """Turns the supernet's logits into weights, step by step, and into choices at the end.

    It has no tensors and updates none: the logits are parameters of the supernet with their own
    optimiser group. In a single-level search they get their gradient from the same batch as the
    weights. In a bilevel search, :meth:`weights` returns for one step the weights with a gradient
    for the held-out batch and those without for the training batch.

    Three guards prevent the collapse of all cells to ``skip``:

    1. every learnt operation starts by adding zero, so that none is worse than skip at first
       (``peml.prefix.Operation``);
    2. in the warm-up only the weights train;
    3. the number of cells that may be skip is limited.

    A single-level softmax search tends to end in mixtures (two operations in one cell have a lower
    loss than either, and the logits move together as the temperature falls), and discretising them
    raises the loss. So the search ends with a cool-down: the logits are frozen, the choices are
    made, including guards, and the weights move from the mixture to the choices (with one option
    per step, the chosen one is drawn more and more often). In the last step the supernet equals the
    discretised network; see the drawing in `Timetable`.

    With perturbation or scores, call :meth:`advance` once before each step.
    """

    def __init__(
        self, supernet: PrefixSupernet, settings: SearchSettings, total_steps: int, seed: int
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"a search needs at least one step, not {total_steps}")
        self.settings = settings
        self.timetable = Timetable(settings, total_steps)
        self.seed = seed
        self.memory = Memory()
        self._chosen: tuple[tuple[int, ...], Mapping[str, str]] | None = None
        self._relaxation = RELAXATIONS[settings.relaxation]
        self._space = supernet.space
        self._decisions = supernet.decisions
        self._budget = settings.held(self._space, supernet.shape)
        # Decisions with the same number of options are relaxed together, since a model may have
        # dozens of layer gates.
        self._groups: dict[int, list[Decision]] = {}
        for decision in self._decisions.values():
            self._groups.setdefault(len(decision.options), []).append(decision)

    def weights(self, step: int, *, attached: bool | None = None) -> dict[str, Tensor]:
        """The weights of a training step.

        A pure function of logits, memory, seed and step: the same in another call, in another
        process or after a resume. If the weights have no gradient, the logits' ``.grad`` stays None
        and an optimiser changes neither them nor its moments.

        Args:
            step: Step of the search, 0-based.
            attached: Whether the logits get a gradient. Default: in a single-level search whenever
                they move, in a bilevel search never; pass True for the held-out batch.

        Returns:
            Decision name to weights, (options,), summing to 1.
        """
        if attached is None:
            attached = self.settings.optimise == "single" and self.timetable.is_due(step)
        generator = self._generator(step, _NOISE)
        temperature = self.timetable.temperature(step)
        weights: dict[str, Tensor] = {}
        held = self._held(self._logits(), self._odds(step))
        for decisions in self._groups.values():
            logits = torch.stack([held[decision.name] for decision in decisions])
            logits = logits if attached else logits.detach()
            rows = self._relaxation.relax(logits, temperature, generator).unbind()
            weights.update({d.name: row for d, row in zip(decisions, rows, strict=True)})
        hardness = self.timetable.hardness(step)
        if self._relaxation.one_path:  # one option per step: the chosen one more and more often
            drawn = torch.rand((), generator=self._generator(step, _LEAD)).item()
            hardness = float(drawn < hardness)
        return self._led(weights, hardness)

    def evaluation_weights(
        self, step: int, without: Mapping[str, Collection[str]] = _NOTHING
    ) -> dict[str, Tensor]:
        """The weights without noise and gradient, for evaluating the supernet.

        Args:
            step: Step of the search, 0-based.
            without: Options to leave out, by decision; their weight goes to the others.
        """
        temperature = self.timetable.temperature(step)
        held = self._held(self._logits(without), temperature)
        weights = {name: softmax(logits.detach(), temperature) for name, logits in held.items()}
        return self._led(weights, self.timetable.hardness(step))

    def snapshot(self, step: int) -> dict[str, dict[str, float]]:
        """The state of the search, for the log: decision to option to weight.

        The mean of a training step's weights over its noise. If noise draws an option with the
        probabilities of temperature 1 (gumbel), a mixture at a lower temperature would look more
        certain than the search is: two logits 0.2 apart are drawn 55 to 45, but mixed 88 to 12 at
        temperature 0.1.
        """
        return self._named(self._led(self._expected(step), self.timetable.hardness(step)))

    def free_weights(self) -> dict[str, dict[str, float]]:
        """The `snapshot` of the last step before the cool-down, ignoring decisions made since.

        Called after the last step; the logits don't change in the cool-down.
        """
        return self._named(self._expected(max(0, self.timetable.cooldown_start - 1)))

    def _odds(self, step: int) -> float:
        """The temperature at which the logits give the options' probabilities in a step."""
        return 1.0 if self._relaxation.fixed_odds else self.timetable.temperature(step)

    def _expected(self, step: int) -> dict[str, Tensor]:
        """The mean weights of a training step over its noise, without the cool-down."""
        odds = self._odds(step)
        held = self._held(self._logits(), odds)
        return {name: softmax(logits.detach(), odds) for name, logits in held.items()}

    def _named(self, rows: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Numbers of decisions' options, (options,), by the options' names."""
        return {
            name: dict(zip(self._decisions[name].options, row.tolist(), strict=True))
            for name, row in rows.items()
        }

    def advance(self, step: int, measure: Measure | None = None) -> None:
        """Updates the memory; called once before each step."""
        if self.settings.discretise == "perturbation":
            picks = self.timetable.picks(step, len(self._decisions))
            self._decide(picks, step, measure)
        elif step == self.timetable.cooldown_start:  # before the weights move to the choices
            self._score(step - 1, measure)

    def conclude(self, measure: Measure | None = None) -> Choices:
        """Makes the remaining decisions, after the last step."""
        if self.settings.discretise == "perturbation":
            self._decide(len(self._decisions), self.timetable.total_steps - 1, measure)
        elif not self.timetable.cooldown_steps:
            self._score(self.timetable.total_steps - 1, measure)
        return self.choices()

    def choices(self) -> Choices:
        """The current choices: made decisions, else the largest logits (see `choose`).

        With a budget, the network has at most that many parameters.
        """
        held = self._held(self._logits(), self.settings.temperature.end)
        limit = self.settings.skip_limit(self._space.cells)
        best = choose(self._space, self._named(held), self.memory, limit)
        if self._budget is None:
            return best
        fitted = self._budget.fitted(best.choices, held)
        changed = {name for name, option in fitted.items() if option != best.choices[name]}
        guarded = tuple(name for name in fitted if name in {*changed, *best.guarded})
        return Choices(fitted, guarded, tuple(name for name in fitted if name in changed))

    def _logits(self, without: Mapping[str, Collection[str]] = _NOTHING) -> dict[str, Tensor]:
        """The logits of every decision, (options,), minus infinity for options left out."""
        rows: dict[str, Tensor] = {}
        for name, decision in self._decisions.items():
            left_out = without.get(name, ())
            rows[name] = decision.logits
            if left_out:
                mask = torch.tensor([option in left_out for option in decision.options])
                rows[name] = rows[name].masked_fill(mask.to(rows[name].device), -torch.inf)
        return rows

    def _held(self, logits: dict[str, Tensor], temperature: float) -> dict[str, Tensor]:
        """The logits, shifted so that the expected size is the budget, if there is one.

        ``temperature`` is the one at which the logits give the options' probabilities.
        """
        if self._budget is None or not logits:
            return logits
        shift = self._budget.shift(logits, temperature)
        return {name: row - shift[name] for name, row in logits.items()}

    def _led(self, weights: Mapping[str, Tensor], hardness: float) -> dict[str, Tensor]:
        """Interpolates from the mixture (hardness 0) to the choices (1); made decisions are 1."""
        decided = self.memory.decided
        chosen: Mapping[str, str] = {}
        if hardness > 0 and self.settings.discretise != "perturbation":
            chosen = self._final_choices()
        result = {}
        for name in self._decisions:
            row, share = weights[name], 1.0 if name in decided else hardness
            option = decided.get(name) or chosen.get(name)
            result[name] = row if option is None else self._lerp(row, name, option, share)
        return result

    def _final_choices(self) -> Mapping[str, str]:
        """The choices in the cool-down; the logits don't change there, so they are read once."""
        versions = tuple(decision.logits._version for decision in self._decisions.values())
        if self._chosen is None or self._chosen[0] != versions:
            self._chosen = (versions, self.choices().choices)
        return self._chosen[1]

    def _lerp(self, row: Tensor, name: str, option: str, share: float) -> Tensor:
        if share == 0:
            return row
        one_hot = torch.zeros_like(row)
        one_hot[self._decisions[name].options.index(option)] = 1
        return one_hot if share == 1 else torch.lerp(row, one_hot, share)

    def _decide(self, count: int, step: int, measure: Measure | None) -> None:
        made = len(self.memory.decided)
        if count <= made:
            return
        generator = self._generator(0, _ORDER)
        order = torch.randperm(len(self._decisions), generator=generator).tolist()
        limit = self.settings.skip_limit(self._space.cells)
        for name in [list(self._decisions)[place] for place in order[made:count]]:
            allowed = partial(may_choose, self._space, self.memory, name, skip_limit=limit)
            decide(self.memory, name, self.removal_scores(name, step, measure), allowed)

    def _score(self, step: int, measure: Measure | None) -> None:
        """Scores all options for the record, if the settings ask for it."""
        if self.settings.score_options:
            for name in self._decisions:
                self.memory.scores[name] = self.removal_scores(name, step, measure)

    def removal_scores(self, name: str, step: int, measure: Measure | None) -> dict[str, float]:
        """How much the held-out loss rises if an option is removed from the supernet.

        The scores don't depend on the rule that chooses.

        Raises:
            ValueError: There is no held-out loss.
        """
        if measure is None:
            raise ValueError("options are scored by the held-out loss: pass measure")
        with_all = measure(self.evaluation_weights(step))
        return {
            option: measure(self.evaluation_weights(step, {name: (option,)})) - with_all
            for option in self._decisions[name].options
        }

    def _generator(self, step: int, purpose: int) -> torch.Generator:
        seed = self.seed * 1_000_003 + step + (purpose << 40)
        return torch.Generator().manual_seed(seed % 2**63)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, besides the supernet's, as plain values."""
        return {
            "seed": self.seed,
            "total_steps": self.timetable.total_steps,
            "memory": asdict(self.memory),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the search of a checkpoint.

        Raises:
            CheckpointError: If the state is incomplete or of a search of another length.
        """
        current, memory = self.state_dict(), {field.name for field in fields(Memory)}
        if set(state) != set(current) or set(state["memory"]) != memory:
            raise CheckpointError(
                f"The state of the search has the fields {', '.join(sorted(state))}.",
                allowed=f"{', '.join(current)}; memory with {', '.join(sorted(memory))}",
                action="resume with the package version the run was started with",
            )
        if state["total_steps"] != current["total_steps"]:
            raise CheckpointError(
                f"The checkpoint's search has {state['total_steps']} steps, this one "
                f"{current['total_steps']}: the temperature would jump.",
                allowed="the config the run was started with",
                action="resume with the same config, or start a new run",
            )
        self.seed = state["seed"]
        self.memory = Memory(**state["memory"])
