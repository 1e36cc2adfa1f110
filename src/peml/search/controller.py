"""Conducts a search: the decisions' weights in each step, and the choices at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peml.errors import CheckpointError
from peml.prefix import SKIP, Decision, PrefixSupernet
from peml.search.relaxation import relax, softmax
from peml.search.settings import SearchSettings

__all__ = ["Choices", "SearchController"]


@dataclass(frozen=True, slots=True)
class Choices:
    """The outcome of a search.

    Attributes:
        choices: Decision name to option.
        guarded: Decisions where a guard overruled the largest logit, in the space's order.
    """

    choices: dict[str, str]
    guarded: tuple[str, ...]


class SearchController:
    """Turns the supernet's logits into weights, step by step, and into choices at the end.

    It holds no tensors of its own and moves nothing: the logits are parameters of the supernet
    and have their own optimiser group. Optimised single-level, they get their gradient from the
    same batch as the weights; a bilevel rule would ask for :meth:`weights` with a held-out
    batch and is free to do so, because asking changes no state.

    Three guards stand against the collapse of all cells to ``skip``:

    1. every learnt operation starts by adding zero, so that none is worse than skip at first
       (``peml.prefix.Operation``);
    2. in the warm-up only the weights move;
    3. at most so many cells may end as skip.

    A single-level softmax search settles into blends (two operations sharing a cell suit the
    loss better than either, and the logits move together as the temperature falls), which
    break when they are discretised. So the search ends with a cool-down: the logits stand, the
    choices are made, guards included, and the weights are led from the mixture to them. In the
    last step the supernet *is* the network it is discretised to::

        |-- warm-up --|-------- logits move --------|-- cool-down --|
        T: start        start ----anneal----> end      end
        hardness: 0     0                              0 ------> 1

    Args:
        supernet: The supernet that is searched.
        settings: Relaxation, temperature, warm-up and guards.
        total_steps: Steps of the search.
        seed: Seed of the noise.
    """

    def __init__(
        self, supernet: PrefixSupernet, settings: SearchSettings, total_steps: int, seed: int
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"a search needs at least one step, not {total_steps}")
        self.settings = settings
        self.total_steps = total_steps
        self.seed = seed
        self._supernet = supernet
        self._space = supernet.space
        self._decisions = supernet.decisions
        self._budget = settings.held(self._space, supernet.shape)
        # Decisions with equally many options are relaxed in one go: a model may have dozens of
        # layer gates.
        self._groups: dict[int, list[Decision]] = {}
        for decision in self._decisions.values():
            self._groups.setdefault(len(decision.options), []).append(decision)

    @property
    def warmup_steps(self) -> int:
        """Steps at the start in which only the weights move."""
        return int(self.settings.warmup * self.total_steps)

    @property
    def cooldown_steps(self) -> int:
        """Steps at the end in which the mixture is led to the chosen network."""
        return int(self.settings.cooldown * self.total_steps)

    def architecture_moves(self, step: int) -> bool:
        """Whether the logits train in this step (0-based)."""
        return self.warmup_steps <= step < self.total_steps - self.cooldown_steps

    def temperature(self, step: int) -> float:
        """The temperature of a step: it stands, falls while the logits move, and stands again."""
        into = step - self.warmup_steps
        last = self.total_steps - self.cooldown_steps - 1 - self.warmup_steps
        progress = into / last if last > 0 else float(into >= 0)
        return self.settings.temperature.at(progress)

    def hardness(self, step: int) -> float:
        """Share of the chosen network in the weights of a step: 0, then up to 1 in the last."""
        if self.cooldown_steps == 0:
            return 0.0
        into = step + 1 - (self.total_steps - self.cooldown_steps)
        return min(max(into / self.cooldown_steps, 0.0), 1.0)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights to compute a training step with.

        A pure function of the logits, the seed and the step. Noise comes from a generator
        seeded by both, so asking twice, in another process, or after a resume gives the same.
        Where the logits don't move the weights carry no gradient, so the logits' ``.grad``
        stays None and an optimiser leaves them and its moments alone.

        Args:
            step: Step of the search, 0-based.

        Returns:
            Decision name to weights, (options,), summing to 1.
        """
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        temperature = self.temperature(step)
        weights: dict[str, Tensor] = {}
        held = self._held(temperature)
        for decisions in self._groups.values():
            logits = torch.stack([held[decision.name] for decision in decisions])
            if not self.architecture_moves(step):
                logits = logits.detach()
            rows = relax(self.settings.relaxation, logits, temperature, generator).unbind()
            weights.update({d.name: row for d, row in zip(decisions, rows, strict=True)})
        return self._led({name: weights[name] for name in self._decisions}, self.hardness(step))

    def evaluation_weights(self, step: int) -> dict[str, Tensor]:
        """The weights without noise and gradient, to evaluate the soft supernet with."""
        temperature = self.temperature(step)
        held = self._held(temperature, evaluated=True)
        weights = {name: softmax(logits.detach(), temperature) for name, logits in held.items()}
        return self._led(weights, self.hardness(step))

    def _held(self, temperature: float, *, evaluated: bool = False) -> dict[str, Tensor]:
        """The logits, shifted to where the expected size is the budget, if there is one.

        Noise makes one-hot samples with the probabilities of the logits at temperature 1; without
        noise, the weights are the softmax at the temperature of the step.
        """
        logits: dict[str, Tensor] = {name: dec.logits for name, dec in self._decisions.items()}
        if self._budget is None or not logits:
            return logits
        noisy = self.settings.relaxation == "gumbel" and not evaluated
        shift = self._budget.shift(logits, 1.0 if noisy else temperature)
        return {name: row - shift[name] for name, row in logits.items()}

    def _led(self, weights: dict[str, Tensor], hardness: float) -> dict[str, Tensor]:
        """The weights, led from the mixture (hardness 0) to the chosen network (1)."""
        if hardness == 0:
            return weights
        chosen = self._supernet.one_hot(self.choices().choices)
        return {name: torch.lerp(row, chosen[name], hardness) for name, row in weights.items()}

    def snapshot(self, step: int) -> dict[str, dict[str, float]]:
        """Where the search stands, for the log: decision to option to weight, without noise."""
        return {
            name: dict(zip(self._decisions[name].options, weights.tolist(), strict=True))
            for name, weights in self.evaluation_weights(step).items()
        }

    def choices(self) -> Choices:
        """The largest logit of each decision, after the guards.

        * Of the cells, at most ``max_skips`` end as skip. Where more would, those whose best
          other option comes closest to skip take it.
        * With a budget the network has at most so many parameters.
        * If every layer would be switched off, the one whose ``on`` comes closest stays on.

        Where logits are equal, the earlier option is taken.
        """
        held = self._held(self.settings.temperature.end)
        logits = {name: row.detach().tolist() for name, row in held.items()}
        choices = {
            name: dec.options[_largest(logits[name])] for name, dec in self._decisions.items()
        }
        changes = self._guard_cells(choices, logits) | self._guard_layers(choices, logits)
        chosen = choices | changes
        if self._budget is not None:
            chosen = self._budget.fitted(chosen, held)
        guarded = tuple(name for name in self._decisions if chosen[name] != choices[name])
        return Choices(chosen, guarded)

    def _guard_cells(
        self, choices: Mapping[str, str], logits: Mapping[str, list[float]]
    ) -> dict[str, str]:
        """Other operations for the cells that may not be skip."""
        rivals: dict[str, tuple[float, str]] = {}  # cell: (lead of skip, best other option)
        for name in (f"cell.{index}" for index in range(self._space.cells)):
            if choices.get(name) != SKIP:
                continue
            options = dict(zip(self._decisions[name].options, logits[name], strict=True))
            lead = options.pop(SKIP)
            best = max(options, key=lambda option: options[option])
            rivals[name] = (lead - options[best], best)
        excess = len(rivals) - self.settings.skip_limit(self._space.cells)
        closest = sorted(rivals, key=lambda name: rivals[name][0])[: max(0, excess)]
        return {name: rivals[name][1] for name in closest}

    def _guard_layers(
        self, choices: Mapping[str, str], logits: Mapping[str, list[float]]
    ) -> dict[str, str]:
        """One layer to keep on, where all would be off."""
        gates = [f"layer.{index}" for index in range(self._space.layers)]
        if any(choices.get(name, "on") == "on" for name in gates):
            return {}

        def deficit(name: str) -> float:
            on, off = logits[name]
            return off - on

        return {min(gates, key=deficit): "on"}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside the supernet's own state; plain numbers."""
        return {"seed": self.seed, "total_steps": self.total_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the search of a checkpoint.

        Raises:
            CheckpointError: If the state is incomplete or of a search of other length.
        """
        if set(state) != {"seed", "total_steps"}:
            raise CheckpointError(
                f"The state of the search has the fields {', '.join(sorted(state))}.",
                allowed="seed, total_steps",
                action="resume from another checkpoint",
            )
        if state["total_steps"] != self.total_steps:
            raise CheckpointError(
                f"The checkpoint's search has {state['total_steps']} steps, this one "
                f"{self.total_steps}: the temperature would jump.",
                allowed="the config the run was started with",
                action="resume with the same config, or start a new run",
            )
        self.seed = state["seed"]


def _largest(values: list[float]) -> int:
    """Index of the largest value, the first of equals."""
    return max(range(len(values)), key=values.__getitem__)
