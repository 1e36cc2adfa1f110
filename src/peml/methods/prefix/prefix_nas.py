"""PrefixNAS alone: a searched prefix without LoRA (arXiv 2605.14055)."""

from typing import ClassVar

from peml.errors import ConfigError
from peml.injection.inject import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.prefix.search import PrefixSearch
from peml.methods.prefix.searched import SearchedPrefix
from peml.methods.prefix.settings import PrefixNasSettings, attention_shape
from peml.methods.shape import ModelShape
from peml.models import TaskModel
from peml.prefix.genotype import Genotype
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.size import SizeRange
from peml.prefix.space import SearchSpace


class PrefixNas(SearchedPrefix):
    """A searched prefix in front of every self-attention layer."""

    settings_type: ClassVar[type[MethodSettings]] = PrefixNasSettings
    settings: PrefixNasSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        injection = attach_prefix(model.backbone)
        prefix = self.settings.prefix
        space = prefix.space(injection.shape)
        genotype = context.genotype or self._decided(space, prefix, injection.shape, context.seed)
        part = self._attach_prefix(model, injection, space, genotype, context)
        search = None
        if genotype is None:
            search = PrefixSearch(part, None, self.settings.search, context.seed)
        return AttachedModel(model, {part.name: part}, search=search)

    def _decided(
        self, space: SearchSpace, prefix: PrefixSettings, shape: PrefixShape, seed: int
    ) -> Genotype | None:
        genotype = super()._decided(space, prefix, shape, seed)
        if genotype is not None and genotype.ranks:
            raise ConfigError(
                f"The genotype {self.settings.search.genotype} holds LoRA ranks, and prefix-nas "
                "has no LoRA",
                allowed="a genotype without ranks",
                action="choose method peml, or empty `ranks` in the genotype",
            )
        return genotype

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The network's parameters; before a search, the mean over the search space."""
        return {"prefix": round(self._size(shape).mean)}

    def parameter_range(self, shape: ModelShape) -> tuple[int, int]:
        size = self._size(shape)
        return size.low, size.high

    def _size(self, shape: ModelShape) -> SizeRange:
        return self._prefix_size(self.settings.prefix, attention_shape(shape))

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings | None:
        """Another width of the cells, and a search with this budget; None with a given genotype."""
        settings = self.settings
        if settings.search.genotype is not None:
            return None
        free = settings.search.held_to(None)

        def at(width: int) -> PrefixNasSettings:
            prefix = settings.prefix.model_copy(update={"width": width})
            return settings.model_copy(update={"prefix": prefix, "search": free})

        return self._nearest(at, shape, budget)
