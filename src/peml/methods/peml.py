"""PEML: LoRA and a searched prefix, trained together (arXiv 2605.14055)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from peml.injection import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.budget import fit_beside_lora, halvings
from peml.methods.lora import LoraPart, LoraSettings
from peml.methods.prefix import PrefixPart, attach_network, attach_supernet, attention_shape
from peml.methods.prefix_place import InputPlace, PrefixPlace
from peml.methods.shape import ModelShape
from peml.models import TaskModel, check_prompt
from peml.prefix import (
    Genotype,
    PrefixSettings,
    PrefixShape,
    PrefixSupernet,
    SizeRange,
    count_network,
    count_space,
    load_for,
)
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
        place = self._place(model)
        genotype = context.genotype or self._decided(place.shape, context.seed)
        if genotype is not None:
            part = attach_network(model, place, genotype, settings.prefix, context, **rates)
            search = None
        else:
            rates["architecture_learning_rate"] = settings.architecture_learning_rate
            part = attach_supernet(model, place, settings.prefix, context, **rates)
            search = PrefixSearch(part, settings.search, context.seed)
        return AttachedModel(
            model, {lora.name: lora, part.name: part}, modules={part.name: part}, search=search
        )

    @property
    def prompt_length(self) -> int:
        """The prefix's longest length, where it stands at the input."""
        if not self.settings.prefix.at_input:
            return 0
        path = self.settings.search.genotype
        return self.settings.prefix.longest if path is None else Genotype.load(path).length

    def _place(self, model: TaskModel) -> PrefixPlace:
        if not self.settings.prefix.at_input:
            return attach_prefix(model.backbone)
        check_prompt(model.family, self.prompt_length)
        return InputPlace(model)

    def search_share(self) -> float:
        """The config's share, or 0 where nothing is searched."""
        search = self.settings.search
        return search.share if search.searches else 0.0

    def _decided(self, shape: PrefixShape, seed: int) -> Genotype | None:
        """The network that the settings give; None where it has to be searched."""
        search, prefix = self.settings.search, self.settings.prefix
        space = prefix.space(shape)
        budget = search.held(space, shape)
        if search.mode != "random":
            return self._given(prefix, shape)
        generator = torch.Generator().manual_seed(seed)
        choices = space.sample(generator) if budget is None else budget.sample(generator)
        return Genotype.from_choices(space, shape, choices, {"by": "random", "seed": seed})

    def _given(self, prefix: PrefixSettings, shape: PrefixShape) -> Genotype | None:
        """The network that doesn't depend on a run's seed, if there is one."""
        search = self.settings.search
        if search.genotype is not None:
            return load_for(search.genotype, shape, adapted=search.adapt)
        return prefix.fixed(shape) if search.mode == "none" else None

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The LoRA's, and the decided network's: the mean over the search space before a search."""
        return {
            "lora": self.settings.lora.count_parameters(shape),
            "prefix": round(self._size(self.settings.prefix, shape).mean),
        }

    def parameter_range(self, shape: ModelShape) -> tuple[int, int]:
        """With the smallest and with the largest network of the search space."""
        size = self._size(self.settings.prefix, shape)
        size = size.shifted(self.settings.lora.count_parameters(shape))
        return size.low, size.high

    def _size(self, settings: PrefixSettings, shape: ModelShape) -> SizeRange:
        place = (
            PrefixShape.at_input(shape.hidden_size) if settings.at_input else attention_shape(shape)
        )
        genotype = self._given(settings, place)
        if genotype is not None:
            return SizeRange.exactly(count_network(genotype))
        space = settings.space(place)
        size = count_space(space, place)
        budget = self.settings.search.held(space, place)
        return size if budget is None else SizeRange(size.low, float(budget.wanted), budget.wanted)

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA, and a smaller prefix where its size is too uncertain.

        How many parameters a search ends at is not known before. The prefix stays as it is if
        every network of the space leaves the sum within 5 % of the budget. Else it gets a
        low-rank head, of the highest rank with which that holds: the head is what differs most
        between networks, since it grows with every layer that is switched on. Where no rank is
        low enough, the cells' width is halved.
        """
        settings = self.settings
        sized = ((p, self._size(p, shape)) for p in self._smaller_prefixes())
        prefix, lora = fit_beside_lora(sized, settings.lora, shape, budget)
        return settings.model_copy(update={"lora": lora, "prefix": prefix})

    def _smaller_prefixes(self) -> Iterator[PrefixSettings]:
        prefix = self.settings.prefix
        yield prefix
        if self.settings.search.genotype is not None or self.settings.search.budget is not None:
            return  # its size is given
        for width in halvings(prefix.width):
            ranks = min(prefix.head_rank, width) if prefix.head == "low-rank" else width
            for rank in range(ranks, 0, -1):
                update = {"width": width, "head": "low-rank", "head_rank": rank}
                yield prefix.model_copy(update=update)
