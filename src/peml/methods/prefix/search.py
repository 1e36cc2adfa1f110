"""The search of a prefix network in a run: PrefixNAS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from peml.errors import TrainingError
from peml.methods.base import HeldOut
from peml.methods.lora.ranks import LoraRanks
from peml.methods.prefix.part import Mixture, PrefixPart
from peml.prefix import Genotype, PrefixSupernet
from peml.search import SearchController, SearchSettings

__all__ = ["PrefixSearch"]

_Weigh = Callable[[], Mapping[str, Tensor]]


class PrefixSearch:
    """PrefixNAS in a run: feeds the supernet its weights, then replaces it by the best network.

    Args:
        part: The prefix, holding a supernet.
        ranks: The LoRA's ranks, which the supernet's space may hold; None without a LoRA.
        settings: Relaxation, temperature, rules, guards.
        seed: Seed of all draws.
    """

    def __init__(
        self, part: PrefixPart, ranks: LoraRanks | None, settings: SearchSettings, seed: int
    ) -> None:
        self._part = part
        self._ranks = ranks
        if ranks is not None:
            ranks.soften(self.supernet.space.ranks)
        self._settings = settings
        self._seed = seed
        self._controller: SearchController | None = None
        self._held_out: HeldOut | None = None

    @property
    def supernet(self) -> PrefixSupernet:
        """The supernet, until `discretise`."""
        assert isinstance(self._part.network, PrefixSupernet)
        return self._part.network

    @property
    def controller(self) -> SearchController:
        """What decides the weights; there from `begin` on."""
        assert self._controller is not None, "begin() comes first"
        return self._controller

    def begin(self, total_steps: int, held_out: HeldOut | None = None) -> None:
        """Fixes the length of the schedules."""
        self._controller = SearchController(self.supernet, self._settings, total_steps, self._seed)
        self._held_out = held_out

    def before_step(self, step: int) -> None:
        """Brings the search up to the step, and mixes the supernet for it."""
        controller = self.controller
        controller.advance(step, self._measure)
        moves = controller.architecture_moves(step)
        bilevel = self._settings.optimise == "bilevel"
        if bilevel and moves:
            self._mix(partial(controller.weights, step, attached=True), step, penalised=True)
            self._move_by_held_out(step)
        self._mix(partial(controller.weights, step), step, penalised=moves and not bilevel)

    def _mix(self, weigh: _Weigh, step: int, *, penalised: bool = False) -> None:
        self._part.mixture = Mixture(
            weigh=partial(self._weighed, weigh),
            penalise=partial(self.controller.penalty, step) if penalised else lambda: None,
            prune=self.controller.is_sparse or None,
            equal_capacity=self._settings.equal_capacity,
        )

    def _weighed(self, weigh: _Weigh) -> Mapping[str, Tensor]:
        """One draw of the decisions' weights, for prefix and LoRA alike."""
        weights = weigh()
        if self._ranks is not None:
            self._ranks.mix(weights)
        return weights

    def _move_by_held_out(self, step: int) -> None:
        """First-order DARTS (arXiv 1806.09055, equation 7 with xi = 0): alpha's gradient alone.

        Nothing but the logits gets a gradient here, and the training batch gives them none.
        """
        logits = self.supernet.architecture_parameters()
        loss = self._rows.loss(self.controller.timetable.turn(step))
        gradients = torch.autograd.grad(loss, logits, allow_unused=True)
        known = [gradient for gradient in gradients if gradient is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in known):
            raise TrainingError(
                f"the search diverged at its step {step + 1}: the held-out loss is "
                f"{float(loss.detach()):.4g}, its gradient for the decisions not finite",
                allowed="finite numbers",
                action="lower training.learning_rates (prefix first) in a new run folder; the last "
                "checkpoint of this run is untouched",
            )
        for parameter, gradient in zip(logits, gradients, strict=True):
            parameter.grad = gradient

    @property
    def _rows(self) -> HeldOut:
        if self._held_out is None:
            raise ValueError("this search chooses on held-out rows: pass them to begin()")
        return self._held_out

    @torch.no_grad()
    def _measure(self, weights: Mapping[str, Tensor]) -> float:
        """Held-out loss of the supernet with given weights."""
        self._part.mixture = Mixture(weigh=partial(self._weighed, lambda: weights))
        return self._rows.measure(self._settings.score_batches)

    def before_evaluation(self, step: int) -> None:
        """Weights without noise."""
        self._mix(partial(self.controller.evaluation_weights, step), step)

    def snapshot(self, step: int) -> dict[str, Any]:
        """Temperature and weights, for the log."""
        return {
            "temperature": self.controller.temperature(step),
            "weights": self.controller.snapshot(step),
        }

    def free_weights(self) -> dict[str, Any]:
        """Where the decisions stood before the cool-down."""
        return {
            "step": self.controller.timetable.cooldown_start,
            "weights": self.controller.free_weights(),
            "by_weight": self._settings.discretise != "perturbation",
        }

    def discretise(self, step: int) -> tuple[Genotype, list[str]]:
        """Takes the chosen option of every decision and keeps its weights."""
        chosen = self.controller.conclude(self._measure)
        free = self.free_weights()
        found_by: dict[str, Any] = {
            "by": "search",
            "relaxation": self._settings.relaxation,
            "optimise": self._settings.optimise,
            "order": self._settings.order,
            "discretise": self._settings.discretise,
            "seed": self._seed,
            "step": step,
            "guarded": list(chosen.guarded),
            "fitted": list(chosen.fitted),
            "weights": free["weights"],
            "free_step": free["step"],
            "by_weight": free["by_weight"],
        }
        if self.controller.memory.scores:
            found_by["scores"] = self.controller.memory.scores
        network = self.supernet.discretise(chosen.choices, found_by)
        self._part.network = network
        self._part.mixture = Mixture()
        if self._ranks is not None and network.genotype.ranks:
            self._ranks.cut(network.genotype.ranks)
        return network.genotype, list(chosen.guarded)

    def state_dict(self) -> dict[str, Any]:
        """What the search remembers."""
        return self.controller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the search of a checkpoint."""
        self.controller.load_state_dict(state)
