"""Conducts a search: the decisions' weights in each step, and the choices at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from peml.errors import CheckpointError
from peml.prefix import Decision, PrefixSupernet
from peml.search.choosing import Choices, Memory, choose, decide, may_choose
from peml.search.relaxation import RELAXATIONS, relax, softmax
from peml.search.settings import SearchSettings
from peml.search.timetable import Timetable

Measure = Callable[[Mapping[str, Tensor]], float]
"""The held-out loss of the supernet with given weights of its decisions."""

_NOTHING: Mapping[str, Collection[str]] = {}
_NOISE, _LEAD, _ORDER = 0, 2, 3
"""What a step draws random numbers for, each from a generator of its own."""


class SearchController:
    """Turns the supernet's logits into weights, step by step, and into choices at the end.

    It holds no tensors of its own and moves nothing: the logits are parameters of the supernet
    and have their own optimiser group. Optimised single-level, they get their gradient from the
    same batch as the weights. For bilevel optimisation :meth:`weights` gives, for one step, the
    weights with a gradient for the held-out batch and those without for the training batch.

    These guards stand against the collapse of all cells to ``skip``:

    1. every learnt operation starts by adding zero, so that none is worse than skip at first
       (``peml.prefix.Operation``);
    2. in the warm-up only the weights move;
    3. at most so many cells may end as skip.

    A single-level softmax search settles into blends (two operations sharing a cell suit the
    loss better than either, and the logits move together as the temperature falls), which
    break when they are discretised. So the search ends with a cool-down: the logits stand, the
    choices are made, guards included, and the weights are led from the mixture to them (where a
    step draws one option, the chosen one ever more often). In the last step the supernet *is* the
    network it is discretised to; see `Timetable` for a drawing.

    What has a memory (perturbation, scores) needs :meth:`advance` once before each step.

    Args:
        supernet: The supernet that is searched.
        settings: Relaxation, temperature, warm-up, rules and guards.
        total_steps: Steps of the search.
        seed: Seed of all draws.
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
        self._relaxation = RELAXATIONS[settings.relaxation]
        self._space = supernet.space
        self._decisions = supernet.decisions
        self._budget = settings.held(self._space, supernet.shape)
        # Decisions with equally many options are relaxed in one go: a model may have dozens of
        # layer gates.
        self._groups: dict[int, list[Decision]] = {}
        for decision in self._decisions.values():
            self._groups.setdefault(len(decision.options), []).append(decision)

    def architecture_moves(self, step: int) -> bool:
        """Whether the logits get a gradient in this step (0-based)."""
        return self.timetable.is_due(step)

    def temperature(self, step: int) -> float:
        """The temperature of a step."""
        return self.timetable.temperature(step)

    def weights(self, step: int, *, attached: bool | None = None) -> dict[str, Tensor]:
        """The weights to compute a training step with.

        A pure function of the logits, the memory, the seed and the step: asking twice, in another
        process, or after a resume gives the same. Where the weights carry no gradient, the logits'
        ``.grad`` stays None and an optimiser leaves them and its moments alone.

        Args:
            step: Step of the search, 0-based.
            attached: Whether the logits get a gradient. Default: in a single-level search where
                they move, in a bilevel one never; ask with True for the held-out batch.

        Returns:
            Decision name to weights, (options,), summing to 1.
        """
        if attached is None:
            attached = self.settings.optimise == "single" and self.architecture_moves(step)
        generator = self._generator(step, _NOISE)
        temperature = self.temperature(step)
        weights: dict[str, Tensor] = {}
        held = self._held(self._logits(), self._odds(step))
        for decisions in self._groups.values():
            logits = torch.stack([held[decision.name] for decision in decisions])
            logits = logits if attached else logits.detach()
            rows = relax(self.settings.relaxation, logits, temperature, generator).unbind()
            weights.update({d.name: row for d, row in zip(decisions, rows, strict=True)})
        hardness = self.timetable.hardness(step)
        if self._relaxation.one_path:  # no blend of two options, but the chosen one ever more often
            drawn = torch.rand((), generator=self._generator(step, _LEAD)).item()
            hardness = float(drawn < hardness)
        return self._led(weights, hardness)

    def evaluation_weights(
        self, step: int, without: Mapping[str, Collection[str]] = _NOTHING
    ) -> dict[str, Tensor]:
        """The weights without noise and gradient, to evaluate the soft supernet with.

        Args:
            step: Step of the search, 0-based.
            without: Options to leave out, by decision; the others share their weight.
        """
        temperature = self.temperature(step)
        held = self._held(self._logits(without), temperature)
        weights = {name: softmax(logits.detach(), temperature) for name, logits in held.items()}
        return self._led(weights, self.timetable.hardness(step))

    def snapshot(self, step: int) -> dict[str, dict[str, float]]:
        """Where the search stands, for the log: decision to option to weight.

        The weights of a training step in the mean over its noise. Where noise draws an option
        with the odds of temperature 1 (gumbel), a mixture at a lower temperature would look surer
        than the search is: two logits 0.2 apart are drawn 55 to 45, and mixed 88 to 12 at 0.1.
        """
        return self._named(self._led(self._expected(step), self.timetable.hardness(step)))

    def free_weights(self) -> dict[str, dict[str, float]]:
        """The same for the last step in which the decisions could move, before any cool-down.

        Asked for after the last step. The logits rest in the cool-down, which leads the weights
        away from them, so they still tell; what was decided meanwhile is left aside.
        """
        return self._named(self._expected(max(0, self.timetable.cooldown_start - 1)))

    def _odds(self, step: int) -> float:
        """The temperature at which the logits become the options' odds in a training step."""
        return 1.0 if self._relaxation.fixed_odds else self.temperature(step)

    def _expected(self, step: int) -> dict[str, Tensor]:
        """What training takes of each option in the mean over its noise, led nowhere."""
        odds = self._odds(step)
        held = self._held(self._logits(), odds)
        return {name: softmax(logits.detach(), odds) for name, logits in held.items()}

    def _named(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(self._decisions[name].options, row.tolist(), strict=True))
            for name, row in weights.items()
        }

    def advance(self, step: int, measure: Measure | None = None) -> None:
        """Brings the memory up to a step; called once before it, nothing else changes it.

        Args:
            step: Step of the search, 0-based.
            measure: Needed where options are scored.
        """
        if self.settings.discretise == "perturbation":
            picks = self.timetable.picks(step, len(self._decisions))
            self._decide(picks, step, measure)
        elif step == self.timetable.cooldown_start:  # before the mixture is led anywhere
            self._score(step - 1, measure)

    def conclude(self, measure: Measure | None = None) -> Choices:
        """Makes what is left of the decisions, after the last step."""
        if self.settings.discretise == "perturbation":
            self._decide(len(self._decisions), self.timetable.total_steps - 1, measure)
        elif not self.timetable.cooldown_steps:
            self._score(self.timetable.total_steps - 1, measure)
        return self.choices()

    def choices(self) -> Choices:
        """The choices as things stand: what is decided, and the largest logits; see `choose`.

        With a budget the network has at most so many parameters.
        """
        held = self._held(self._logits(), self.settings.temperature.end)
        logits = {
            name: dict(zip(self._decisions[name].options, row.tolist(), strict=True))
            for name, row in held.items()
        }
        limit = self.settings.skip_limit(self._space.cells)
        found = choose(self._space, logits, self.memory, limit)
        if self._budget is None:
            return found
        fitted = self._budget.fitted(found.choices, held)
        changed = {name for name, option in fitted.items() if option != found.choices[name]}
        guarded = tuple(name for name in fitted if name in {*changed, *found.guarded})
        return Choices(fitted, guarded, tuple(name for name in fitted if name in changed))

    def _logits(self, without: Mapping[str, Collection[str]] = _NOTHING) -> dict[str, Tensor]:
        """The logits of every decision, (options,), minus infinity where left out."""
        rows: dict[str, Tensor] = {}
        for name, decision in self._decisions.items():
            out = without.get(name, ())
            rows[name] = decision.logits
            if out:
                mask = torch.tensor([option in out for option in decision.options])
                rows[name] = rows[name].masked_fill(mask.to(rows[name].device), -torch.inf)
        return rows

    def _held(self, logits: dict[str, Tensor], temperature: float) -> dict[str, Tensor]:
        """The logits, shifted to where the expected size is the budget, if there is one.

        Args:
            logits: Of every decision, (options,).
            temperature: At which they become the odds of the options.
        """
        if self._budget is None or not logits:
            return logits
        shift = self._budget.shift(logits, temperature)
        return {name: row - shift[name] for name, row in logits.items()}

    def _led(self, weights: Mapping[str, Tensor], hardness: float) -> dict[str, Tensor]:
        """The weights, led from the mixture (hardness 0) to the choices (1); decided is decided."""
        decided = self.memory.decided
        chosen: Mapping[str, str] = {}
        if hardness > 0 and self.settings.discretise != "perturbation":
            chosen = self.choices().choices
        led = {}
        for name in self._decisions:
            row, share = weights[name], 1.0 if name in decided else hardness
            option = decided.get(name) or chosen.get(name)
            led[name] = row if option is None else self._lerp(row, name, option, share)
        return led

    def _lerp(self, row: Tensor, name: str, option: str, share: float) -> Tensor:
        if share == 0:
            return row
        one_hot = torch.zeros_like(row)
        one_hot[self._decisions[name].options.index(option)] = 1
        return one_hot if share == 1 else torch.lerp(row, one_hot, share)

    def _decide(self, count: int, step: int, measure: Measure | None) -> None:
        """Makes decisions in a random order until so many are made."""
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
        """Scores all options for the record, where that is asked for."""
        if self.settings.score_options:
            for name in self._decisions:
                self.memory.scores[name] = self.removal_scores(name, step, measure)

    def removal_scores(self, name: str, step: int, measure: Measure | None) -> dict[str, float]:
        """How much the held-out loss rises when an option is taken out of the supernet.

        What is needed has a high score. The scores don't depend on the rule that chooses.

        Raises:
            ValueError: There is no held-out loss.
        """
        if measure is None:
            raise ValueError("options are scored by the held-out loss: pass measure")
        whole = measure(self.evaluation_weights(step))
        return {
            option: measure(self.evaluation_weights(step, {name: (option,)})) - whole
            for option in self._decisions[name].options
        }

    def _generator(self, step: int, purpose: int) -> torch.Generator:
        seed = self.seed * 1_000_003 + step + (purpose << 40)
        return torch.Generator().manual_seed(seed % 2**63)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside the supernet's own state; plain values."""
        return {
            "seed": self.seed,
            "total_steps": self.timetable.total_steps,
            "memory": asdict(self.memory),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the search of a checkpoint.

        Raises:
            CheckpointError: If the state is incomplete or of a search of other length.
        """
        own, known = self.state_dict(), {field.name for field in fields(Memory)}
        if set(state) != set(own) or set(state["memory"]) != known:
            raise CheckpointError(
                f"The state of the search has the fields {', '.join(sorted(state))}.",
                allowed=f"{', '.join(own)}; memory with {', '.join(sorted(known))}",
                action="resume with the package version the run was started with",
            )
        if state["total_steps"] != own["total_steps"]:
            raise CheckpointError(
                f"The checkpoint's search has {state['total_steps']} steps, this one "
                f"{own['total_steps']}: the temperature would jump.",
                allowed="the config the run was started with",
                action="resume with the same config, or start a new run",
            )
        self.seed = state["seed"]
        self.memory = Memory(**state["memory"])
