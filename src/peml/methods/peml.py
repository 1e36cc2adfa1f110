"""PEML: LoRA and a searched prefix, trained together (arXiv 2605.14055)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from peml.injection import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.budget import fit_beside_lora, halvings
from peml.methods.lora import LoraPart, LoraSettings
from peml.methods.prefix import attach_network, attach_supernet, attention_shape
from peml.methods.prefix_place import InputPlace, PrefixPlace
from peml.methods.prefix_search import PrefixSearch
from peml.methods.shape import ModelShape
from peml.models import TaskModel, check_prompt
from peml.prefix import (
    Genotype,
    PrefixSettings,
    PrefixShape,
    SizeRange,
    count_network,
    count_space,
    load_for,
)
from peml.search import SearchSettings

__all__ = ["Peml", "PemlSettings"]


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


_Orders = Mapping[str, Mapping[str, frozenset[str]]]

_RESTING: _Orders = {
    "parallel": {},
    "search-first": {"search": frozenset({"lora"}), "train": frozenset({"prefix"})},
    "lora-first": {
        "before": frozenset({"prefix", "architecture"}),
        "search": frozenset({"lora"}),
        "train": frozenset({"lora"}),
    },
}
"""Order of the search: phase: the groups that don't train in it."""

_ABSENT: _Orders = {
    "parallel": {},
    "search-first": {"search": frozenset({"lora"})},
    "lora-first": {"before": frozenset({"prefix"})},
}
"""Order of the search: phase: the parts that have no effect in it."""


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

    def search_start(self) -> float:
        """Half of what isn't search, where LoRA trains first."""
        search = self.settings.search
        first = search.searches and search.order == "lora-first"
        return (1 - search.share) / 2 if first else 0.0

    def held_out_share(self) -> float:
        """The config's share, where the search chooses on rows of its own."""
        search = self.settings.search
        return search.held_out if search.searches and search.needs_held_out else 0.0

    def resting(self, phase: str) -> frozenset[str]:
        """By the order of the search; nothing where there is none."""
        return self._of_order(_RESTING, phase)

    def absent(self, phase: str) -> frozenset[str]:
        """By the order of the search; nothing where there is none."""
        return self._of_order(_ABSENT, phase)

    def _of_order(self, orders: _Orders, phase: str) -> frozenset[str]:
        search = self.settings.search
        return orders[search.order].get(phase, frozenset()) if search.searches else frozenset()

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
