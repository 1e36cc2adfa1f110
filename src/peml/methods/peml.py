"""PEML: LoRA and a searched prefix, trained together (arXiv 2605.14055)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from peml.methods.base import AttachContext, AttachedModel, Method, MethodSettings
from peml.methods.lora import LoraPart, LoraSettings
from peml.methods.prefix import PrefixPart, attach_network, attach_supernet
from peml.models import TaskModel
from peml.prefix import Genotype, PrefixSettings, PrefixSupernet
from peml.search import SearchController, SearchSettings

__all__ = ["Peml", "PemlSettings", "PrefixSearch"]


class PemlSettings(MethodSettings):
    """LoRA and a searched prefix."""

    name: Literal["peml"] = "peml"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    prefix: PrefixSettings = Field(
        default_factory=lambda: PrefixSettings(), description="The prefix and its search space."
    )
    search: SearchSettings = Field(
        default_factory=lambda: SearchSettings(), description="How the network is searched."
    )
    prefix_learning_rate: float = Field(
        1e-3, description="Default rate of the group `prefix`.", gt=0
    )
    architecture_learning_rate: float = Field(
        3e-2, description="Default rate of the group `architecture`.", gt=0
    )


class PrefixSearch:
    """PrefixNAS in a run: feeds the supernet its weights, then replaces it by the best network.

    Args:
        part: The prefix, holding a supernet.
        settings: Relaxation, temperature, guards.
        seed: Seed of the relaxation's noise.
    """

    def __init__(self, part: PrefixPart, settings: SearchSettings, seed: int) -> None:
        self._part = part
        self._settings = settings
        self._seed = seed
        self._controller: SearchController | None = None

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

    def begin(self, total_steps: int) -> None:
        """Fixes the length of the temperature's schedule."""
        self._controller = SearchController(self.supernet, self._settings, total_steps, self._seed)

    def before_step(self, step: int) -> None:
        """Draws the weights of every decision."""
        self._part.weights = self.controller.weights(step)

    def before_evaluation(self, step: int) -> None:
        """Weights without noise."""
        self._part.weights = self.controller.evaluation_weights(step)

    def snapshot(self, step: int) -> dict[str, Any]:
        """Temperature and weights, for the log."""
        return {
            "temperature": self.controller.temperature(step),
            "weights": self.controller.snapshot(step),
        }

    def discretise(self, step: int) -> tuple[Genotype, list[str]]:
        """Takes the best option of every decision and keeps its weights."""
        chosen = self.controller.choices()
        found_by: dict[str, Any] = {
            "by": "search",
            "relaxation": self._settings.relaxation,
            "seed": self._seed,
            "step": step,
            "guarded": list(chosen.guarded),
            "weights": self.controller.snapshot(step - 1),
        }
        network = self.supernet.discretise(chosen.choices, found_by)
        self._part.network = network
        self._part.weights = {}
        return network.genotype, list(chosen.guarded)


class Peml(Method):
    """LoRA on all linear layers, a searched prefix in front of every self-attention layer."""

    settings_type: ClassVar[type[MethodSettings]] = PemlSettings

    def __init__(self, settings: PemlSettings) -> None:
        self.settings = settings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds LoRA and prefix; the search is there unless the genotype is known."""
        settings = self.settings
        lora = LoraPart(model.backbone, settings.lora, context.seed)
        rates = {"learning_rate": settings.prefix_learning_rate}
        genotype = context.genotype or self._given_genotype()
        if genotype is not None:
            quietness = settings.prefix.quietness
            part = attach_network(model, lambda _: genotype, quietness, context, **rates)
            search = None
        else:
            rates["architecture_learning_rate"] = settings.architecture_learning_rate
            part = attach_supernet(model, settings.prefix, context, **rates)
            search = PrefixSearch(part, settings.search, context.seed)
        return AttachedModel(
            model, {lora.name: lora, part.name: part}, modules={part.name: part}, search=search
        )

    def search_share(self) -> float:
        """The config's share, or 0 where a genotype is given."""
        return 0.0 if self.settings.prefix.genotype is not None else self.settings.search.share

    def _given_genotype(self) -> Genotype | None:
        path = self.settings.prefix.genotype
        return None if path is None else Genotype.load(path)
