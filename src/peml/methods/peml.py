"""PEML: LoRA and a searched prefix, trained together (arXiv 2605.14055)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from peml.injection import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.budget import fit_beside_lora, halvings
from peml.methods.lora import LoraPart, LoraSettings
from peml.methods.lora_ranks import LoraRanks, count_lora, rank_groups, with_ranks
from peml.methods.prefix import attach_network, attach_supernet, attention_shape
from peml.methods.prefix_place import InputPlace, PrefixPlace
from peml.methods.prefix_search import PrefixSearch
from peml.methods.shape import LinearShape, ModelShape, nearest_size, read_linears, select_linears
from peml.models import TaskModel, check_prompt
from peml.prefix import (
    Genotype,
    PrefixSettings,
    PrefixShape,
    SearchSpace,
    SizeRange,
    count_network,
    count_ranks,
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
    lora_ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Candidate ranks of the LoRA, searched with the prefix for each group of "
        "modules (the same layer of every block) in place of lora.r; lora.alpha / lora.r stays the "
        "scale. More rank never hurts the loss, so give search.budget too, which then counts LoRA "
        "and prefix.",
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

    @model_validator(mode="after")
    def _ranks_to_search(self) -> PemlSettings:
        if len(set(self.lora_ranks)) != len(self.lora_ranks):
            raise ValueError(f"lora_ranks: a rank stands twice in {list(self.lora_ranks)}")
        search = self.search
        if self.lora_ranks and (search.mode == "none" or search.genotype is not None):
            raise ValueError(
                "lora_ranks are searched or drawn, but search.mode none and search.genotype decide "
                "nothing: leave lora_ranks out (a genotype may hold ranks of its own)"
            )
        if self.lora_ranks and "lora" in _ABSENT[search.order].get("search", ()):
            raise ValueError(
                f"lora_ranks can't be searched with search.order {search.order}, whose search runs "
                "without LoRA; allowed: parallel, lora-first"
            )
        return self


_Orders = Mapping[str, Mapping[str, frozenset[str]]]

_RESTING: _Orders = {
    "parallel": {},
    "prefix-first": {"search": frozenset({"lora"})},
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
    "prefix-first": {"search": frozenset({"lora"})},
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
        rates = {"learning_rate": settings.prefix_learning_rate}
        place = self._place(model)
        space = self._space(settings.prefix, place.shape, read_linears(model.backbone))
        genotype = context.genotype or self._decided(space, place.shape, context.seed)
        candidates = settings.lora_ranks if genotype is None else tuple(genotype.ranks.values())
        lora = LoraPart(model.backbone, with_ranks(settings.lora, candidates), context.seed)
        ranks = LoraRanks(lora)
        if genotype is not None:
            if genotype.ranks:
                ranks.cut(genotype.ranks)
            part = attach_network(model, place, genotype, settings.prefix, context, **rates)
            search = None
        else:
            rates["architecture_learning_rate"] = settings.architecture_learning_rate
            part = attach_supernet(model, place, space, settings.prefix, context, **rates)
            search = PrefixSearch(part, ranks, settings.search, context.seed)
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

    def _space(
        self, prefix: PrefixSettings, shape: PrefixShape, linears: Sequence[LinearShape]
    ) -> SearchSpace:
        """What is left to the search, the LoRA's ranks included where they are."""
        space, ranks = prefix.space(shape), self.settings.lora_ranks
        if not ranks:
            return space
        layers = select_linears(linears, self.settings.lora.target_modules)
        return replace(space, ranks=rank_groups(layers, ranks))

    def _decided(self, space: SearchSpace, shape: PrefixShape, seed: int) -> Genotype | None:
        """The network that the settings give; None where it has to be searched."""
        search, prefix = self.settings.search, self.settings.prefix
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
        """The LoRA's, and the decided network's: the mean over the search space before a search.

        With a budget over both, its shares are those they have of that mean.
        """
        lora, prefix = self._sizes(self.settings.prefix, shape)
        return {"lora": round(lora.mean), "prefix": round(prefix.mean)}

    def parameter_range(self, shape: ModelShape) -> tuple[int, int]:
        """With the smallest and with the largest network of the search space."""
        lora, prefix = self._sizes(self.settings.prefix, shape)
        return lora.low + prefix.low, lora.high + prefix.high

    def _sizes(self, settings: PrefixSettings, shape: ModelShape) -> tuple[SizeRange, SizeRange]:
        """Of the LoRA and of the prefix network."""
        place = (
            PrefixShape.at_input(shape.hidden_size) if settings.at_input else attention_shape(shape)
        )
        lora = SizeRange.exactly(self.settings.lora.count_parameters(shape))
        genotype = self._given(settings, place)
        if genotype is not None:
            if genotype.ranks:
                layers = shape.targets(self.settings.lora.target_modules)
                lora = SizeRange.exactly(count_lora(layers, genotype.ranks))
            return lora, SizeRange.exactly(count_network(genotype))
        space = self._space(settings, place, shape.linears)
        prefix = count_space(replace(space, ranks=()), place)
        budget = self.settings.search.held(space, place)
        if not space.ranks:
            return lora, prefix if budget is None else prefix.within(budget.wanted)
        lora = count_ranks(space.ranks)
        if budget is None:
            return lora, prefix
        share = budget.wanted * lora.mean / (lora.mean + prefix.mean)
        return lora.within(share), prefix.within(budget.wanted - share)

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA, and a smaller prefix where its size is too uncertain.

        How many parameters a search ends at is not known before. The prefix stays as it is if
        every network of the space leaves the sum within 5 % of the budget. Else it gets a
        low-rank head, of the highest rank with which that holds: the head is what differs most
        between networks, since it grows with every layer that is switched on. Where no rank is
        low enough, the cells' width is halved. Where the LoRA's ranks are searched, the
        candidates are scaled until the mean is near, and the search keeps to the budget.
        """
        settings = self.settings
        if settings.lora_ranks:
            return self._with_ranks_for(shape, budget)
        sized = ((p, self._sizes(p, shape)[1]) for p in self._smaller_prefixes())
        prefix, lora = fit_beside_lora(sized, settings.lora, shape, budget)
        return settings.model_copy(update={"lora": lora, "prefix": prefix})

    def _with_ranks_for(self, shape: ModelShape, budget: int) -> PemlSettings:
        settings = self.settings
        top = max(settings.lora_ranks)
        search = settings.search.model_copy(update={"budget": None})

        def scaled(size: int) -> PemlSettings:
            ranks = sorted({max(1, round(rank * size / top)) for rank in settings.lora_ranks})
            return settings.model_copy(update={"lora_ranks": tuple(ranks), "search": search})

        def count(size: int) -> int:
            return sum(Peml(scaled(size)).count_parameters(shape).values())

        found = scaled(nearest_size(count, budget))
        low, high = Peml(found).parameter_range(shape)
        if low < budget < high:
            search = search.model_copy(update={"budget": budget})
        return found.model_copy(update={"search": search})

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
