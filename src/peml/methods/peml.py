"""PEML: LoRA and a searched prefix, trained together (arXiv 2605.14055)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from peml.injection.inject import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, MethodSettings, Part
from peml.methods.budget import fit_beside_lora
from peml.methods.context.network import ContextNetwork
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings
from peml.methods.layers import Layers
from peml.methods.lora.lora import LoraPart
from peml.methods.lora.ranks import LoraRanks, count_lora, rank_groups, with_ranks
from peml.methods.prefix.part import PrefixPart
from peml.methods.prefix.search import PrefixSearch
from peml.methods.prefix.searched import SearchedPrefix
from peml.methods.prefix.settings import attention_shape
from peml.methods.settings import PemlSettings, smaller_heads
from peml.methods.shape import ModelShape
from peml.methods.targets import read_layers
from peml.models import TaskModel
from peml.prefix.genotype import Genotype
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.size import SizeRange, count_space
from peml.prefix.space import SearchSpace


class Peml(SearchedPrefix):
    """LoRA on all linear layers, and a searched prefix in front of every self-attention layer."""

    settings_type: ClassVar[type[MethodSettings]] = PemlSettings
    settings: PemlSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        settings = self.settings
        injection = attach_prefix(model.backbone)
        make: Callable[..., PrefixPart] = PrefixPart
        lengths: tuple[int, ...] = ()
        contexts: ContextPart | None = None
        if settings.context is not None:
            contexts = ContextPart(model, injection, settings.context)
            lengths = tuple(settings.context.held([len(tokens) for tokens in contexts.tokens]))
            make = partial(ContextNetwork, lengths=lengths, seed=context.seed)
        prefix = self._over(settings.prefix, lengths)
        space = self._space(prefix, injection.shape, read_layers(model.backbone))
        genotype = context.genotype or self._decided(space, prefix, injection.shape, context.seed)
        candidates = settings.lora_ranks if genotype is None else tuple(genotype.ranks.values())
        lora = LoraPart(model.backbone, with_ranks(settings.lora, candidates), context.seed)
        ranks = LoraRanks(lora)
        if genotype is not None and genotype.ranks:
            ranks.cut(genotype.ranks)
        part = self._attach_prefix(model, injection, space, genotype, context, make)
        search = None
        if genotype is None:
            search = PrefixSearch(part, ranks, settings.search, context.seed)
        parts: dict[str, Part] = {lora.name: lora, part.name: part}
        if contexts is not None:
            assert isinstance(part, ContextNetwork)
            contexts.use_rows(context.solved, without_update=lora.disabled)
            contexts.correct(part)
            parts[contexts.name] = contexts
        return AttachedModel(model, parts, search=search)

    @property
    def context(self) -> ContextSettings | None:
        return self.settings.context

    @property
    def corrects_contexts(self) -> bool:
        return self.settings.context is not None

    def _over(self, prefix: PrefixSettings, lengths: Sequence[int]) -> PrefixSettings:
        if self.settings.context is None:
            return prefix
        return prefix.model_copy(update={"length": max(lengths)})

    def _given(self, prefix: PrefixSettings, shape: PrefixShape) -> Genotype | None:
        genotype = super()._given(prefix, shape)
        if genotype is None or self.settings.context is None:
            return genotype
        return genotype.model_copy(update={"length": prefix.length})

    @property
    def _searches_first(self) -> bool:
        search = self.settings.search
        return search.searches and search.order == "search-first"

    def resting(self, phase: str) -> frozenset[str]:
        """The resting groups with ``search-first``: LoRA in the search and the prefix after it."""
        if not self._searches_first:
            return frozenset()
        return frozenset({"lora" if phase == "search" else "prefix"})

    def absent(self, phase: str) -> frozenset[str]:
        """The absent part with ``search-first``: LoRA in the search."""
        return self.resting(phase) if phase == "search" else frozenset()

    def _space(self, prefix: PrefixSettings, shape: PrefixShape, layers: Layers) -> SearchSpace:
        space, ranks = prefix.space(shape), self.settings.lora_ranks
        if not ranks:
            return space
        return replace(space, ranks=rank_groups(self.settings.lora.targets(layers), ranks))

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The parameters of LoRA and network; before a search, means over the search space.

        A budget for both is divided in proportion to these means.
        """
        lora, prefix = self._sizes(self.settings.prefix, shape)
        return {"lora": round(lora.mean), "prefix": round(prefix.mean)}

    def parameter_range(self, shape: ModelShape) -> tuple[int, int]:
        lora, prefix = self._sizes(self.settings.prefix, shape)
        return lora.low + prefix.low, lora.high + prefix.high

    def _sizes(self, settings: PrefixSettings, shape: ModelShape) -> tuple[SizeRange, SizeRange]:
        """Sizes of LoRA and prefix network, the latter with the embeddings of the contexts."""
        attention = attention_shape(shape)
        embeddings = 0
        if self.settings.context is not None:
            settings = self._over(settings, shape.known_contexts())
            embeddings = settings.width * sum(self.settings.context.held(shape.contexts))
        lora = SizeRange.exactly(self.settings.lora.count_parameters(shape))
        genotype = self._given(settings, attention)
        if genotype is not None and genotype.ranks:
            layers = self.settings.lora.targets(shape.layers)
            lora = SizeRange.exactly(count_lora(layers, genotype.ranks))
        if not self.settings.lora_ranks:
            return lora, self._prefix_size(settings, attention).shifted(embeddings)
        space = self._space(settings, attention, shape.layers)
        search = self.settings.search
        prefix = count_space(replace(space, ranks=()), attention, search.lead)
        lora = count_space(space, attention, search.lead).without(prefix)
        budget = search.held(space, attention)
        if budget is None:
            return lora, prefix
        share = round(budget.wanted * lora.mean / (lora.mean + prefix.mean))
        return lora.within(share), prefix.within(budget.wanted - share)

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA, and a smaller prefix if its size is too uncertain.

        The size of a search's result is not known in advance. If the sum is within 5 % of the
        budget with every network of the space, the prefix stays. Otherwise it gets a low-rank head,
        of the highest rank with which this holds, since the head's size differs most between
        networks. If no rank is low enough, the cells' width is halved. If the LoRA's ranks are
        searched, the candidates are scaled until the mean is close, and the search has the budget.
        """
        settings = self.settings
        if settings.lora_ranks:
            return self._with_ranks_for(shape, budget)
        sized = ((p, self._sizes(p, shape)[1]) for p in self._smaller_prefixes())
        prefix, lora = fit_beside_lora(sized, settings.lora, shape, budget)
        return settings.model_copy(update={"lora": lora, "prefix": prefix})

    def _with_ranks_for(self, shape: ModelShape, budget: int) -> PemlSettings:
        settings, free = self.settings, self.settings.search.held_to(None)
        top = max(settings.lora_ranks)

        def scaled(size: int) -> PemlSettings:
            ranks = sorted({max(1, round(rank * size / top)) for rank in settings.lora_ranks})
            return settings.model_copy(update={"lora_ranks": tuple(ranks), "search": free})

        return self._nearest(scaled, shape, budget)

    def _smaller_prefixes(self) -> Iterator[PrefixSettings]:
        prefix = self.settings.prefix
        yield prefix
        if self.settings.search.genotype is not None or self.settings.search.budget is not None:
            return  # its size is given
        yield from smaller_heads(prefix)
