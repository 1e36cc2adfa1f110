"""The search of a prefix network in a run: PrefixNAS."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from peml.errors import TrainingError
from peml.methods.base import HeldOut
from peml.methods.lora.ranks import LoraRanks
from peml.methods.prefix.part import PrefixPart
from peml.prefix.genotype import Genotype
from peml.prefix.prefix import OnContext, Prefix
from peml.prefix.supernet import PrefixSupernet
from peml.search.controller import SearchController
from peml.search.relaxation import RELAXATIONS
from peml.search.settings import SearchSettings

_Purpose = Literal["train", "move", "evaluate", "score"]
"""Purpose of the next forward pass: a training step, an update of the decisions on held-out rows
(bilevel), an evaluation, or a score of given weights."""

_SCORE_BATCHES = 4
"""Held-out batches on which the removal of an option is scored."""


class PrefixSearch:
    """PrefixNAS in a run: weighs the supernet's options, then replaces it by the best network.

    The run calls it once per step. It depends only on the model's weights, the seed, the step
    (counted from the start of the search) and `state_dict`, so a resumed search gives the same
    result.

    The network of `part` is a supernet; the LoRA's `ranks` may be in its search space (None: there
    is no LoRA).
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
        self._one_path = RELAXATIONS[settings.relaxation].one_path
        self._step = 0
        self._purpose: _Purpose = "evaluate"
        self._scored: Mapping[str, Tensor] = {}
        part.search = self

    @property
    def supernet(self) -> PrefixSupernet:
        """The supernet, until `discretise`."""
        assert isinstance(self._part.network, PrefixSupernet)
        return self._part.network

    @property
    def controller(self) -> SearchController:
        """Computes the weights; exists after `begin`."""
        assert self._controller is not None, "begin() comes first"
        return self._controller

    def begin(self, total_steps: int, held_out: HeldOut | None = None) -> None:
        """Fixes the length of the schedules; called once.

        ``held_out`` is needed if `Method.held_out_share` is above 0.
        """
        self._controller = SearchController(self.supernet, self._settings, total_steps, self._seed)
        self._held_out = held_out

    def before_step(self, step: int) -> None:
        """Sets the decisions' weights for a training step; called for every step, in order.

        A bilevel search computes the decisions' gradient here.

        Raises:
            TrainingError: That gradient is not finite.
        """
        controller = self.controller
        controller.advance(step, self._measure)
        self._step = step
        if self._settings.optimise == "bilevel" and controller.timetable.is_due(step):
            self._purpose = "move"
            self._move_by_held_out(step)
        self._purpose = "train"

    def before_evaluation(self, step: int) -> None:
        """Weights without noise."""
        self._step, self._purpose = step, "evaluate"

    def prefix(self, on: OnContext | None = None) -> Prefix:
        """The supernet's prefix for the next forward pass; LoRA's ranks get the same weights."""
        weights = self._weights()
        if self._ranks is not None:
            self._ranks.mix(weights)
        prefix: Prefix = self.supernet(weights, prune=self._prunes(), on=on)
        return prefix

    def _prunes(self) -> bool | None:
        """Whether options of weight zero are skipped, for which the weights have to be read."""
        if self._one_path:
            return True  # only the drawn option is computed, with or without a gradient
        if self._purpose in ("train", "move") and not self.controller.memory.decided:
            return False  # no weight is zero, and a GPU would wait in each step
        return None

    def _weights(self) -> Mapping[str, Tensor]:
        if self._controller is None:
            return self.supernet.uniform_weights()
        match self._purpose:
            case "train":
                return self._controller.weights(self._step)
            case "move":
                return self._controller.weights(self._step, attached=True)
            case "evaluate":
                return self._controller.evaluation_weights(self._step)
            case "score":
                return self._scored

    def _move_by_held_out(self, step: int) -> None:
        """First-order DARTS (arXiv 1806.09055, equation 7 with xi = 0).

        Only the logits get a gradient here, and they get none from the training batch.
        """
        logits = self.supernet.architecture_parameters()
        loss = self._rows.loss(self.controller.timetable.turn(step))
        gradients = torch.autograd.grad(loss, logits, allow_unused=True)
        known = [gradient for gradient in gradients if gradient is not None]
        # On a GPU, reading would wait; there, the later check of the step's gradient norm finds it.
        if loss.device.type == "cpu" and not all(
            bool(gradient.isfinite().all()) for gradient in known
        ):
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
        self._scored, self._purpose = weights, "score"
        return self._rows.measure(_SCORE_BATCHES)

    def snapshot(self, step: int) -> dict[str, Any]:
        """Temperature and weights, for the log.

        Raises:
            TrainingError: A decision is NaN or infinite.
        """
        self._part.check_decisions(step)
        return {
            "temperature": self.controller.timetable.temperature(step),
            "weights": self.controller.snapshot(step),
        }

    def free_weights(self) -> dict[str, Any]:
        """The weights before the cool-down; called before `discretise`.

        Returns:
            ``step``: number of steps before it; ``weights``: decision -> option -> weight;
            ``by_weight``: whether the option with the largest weight is chosen, guards aside.
        """
        return {
            "step": self.controller.timetable.cooldown_start,
            "weights": self.controller.free_weights(),
            "by_weight": self._settings.discretise != "perturbation",
        }

    def discretise(self, step: int) -> tuple[Genotype, list[str]]:
        """Replaces the supernet by the network of the best choices, with the supernet's weights.

        Returns:
            The genotype, and the decisions that a guard or the budget changed.
        """
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
        self._part.search = None
        if self._ranks is not None and network.genotype.ranks:
            self._ranks.cut(network.genotype.ranks)
        return network.genotype, list(chosen.guarded)

    def state_dict(self) -> dict[str, Any]:
        """The state of the search as JSON; called after `begin`."""
        return self.controller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the search of a checkpoint; called after `begin`."""
        self.controller.load_state_dict(state)
