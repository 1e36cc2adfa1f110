"""Common code of the methods that search a prefix."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, TypeVar

import torch

from peml.injection.inject import PrefixInjection
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.prefix.part import Network, PrefixPart, build_network
from peml.methods.prefix.settings import SearchedPrefixSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.models import TaskModel
from peml.prefix.adaptation import load_for
from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.size import SizeRange, count_network, count_space
from peml.prefix.space import SearchSpace
from peml.prefix.supernet import PrefixSupernet

_Settings = TypeVar("_Settings", bound=SearchedPrefixSettings)


class SearchedPrefix(Method):
    """Base of the methods that search a prefix, alone or beside a LoRA.

    Subclasses attach the part that `_attach_prefix` makes.
    """

    settings_type: ClassVar[type[MethodSettings]] = SearchedPrefixSettings
    settings: SearchedPrefixSettings

    def search_share(self) -> float:
        search = self.settings.search
        return search.share if search.searches else 0.0

    def held_out_share(self) -> float:
        search = self.settings.search
        return search.held_out if search.searches and search.needs_held_out else 0.0

    def _attach_prefix(
        self,
        model: TaskModel,
        injection: PrefixInjection,
        space: SearchSpace,
        genotype: Genotype | None,
        context: AttachContext,
        make: Callable[..., PrefixPart] = PrefixPart,
    ) -> PrefixPart:
        settings, shape = self.settings, injection.shape
        length = space.max_length if genotype is None else genotype.length
        make_network: Callable[[PrefixStart], Network]
        if genotype is None:
            make_network = partial(PrefixSupernet, space, shape, lead=settings.search.lead)
        else:
            make_network = partial(PrefixNetwork, genotype, shape)
        return make(
            injection,
            build_network(model, injection, settings.prefix, length, context, make_network),
            settings.prefix,
            learning_rate=settings.prefix_learning_rate,
            architecture_learning_rate=settings.architecture_learning_rate,
        )

    def _decided(
        self, space: SearchSpace, prefix: PrefixSettings, shape: PrefixShape, seed: int
    ) -> Genotype | None:
        """The network that the settings determine; None if it has to be searched."""
        search = self.settings.search
        budget = search.held(space, shape)
        if search.mode != "random":
            return self._given(prefix, shape)
        generator = torch.Generator().manual_seed(seed)
        choices = space.sample(generator) if budget is None else budget.sample(generator)
        return Genotype.from_choices(space, shape, choices, {"by": "random", "seed": seed})

    def _given(self, prefix: PrefixSettings, shape: PrefixShape) -> Genotype | None:
        """The network that the settings determine for any seed, if there is one."""
        search = self.settings.search
        if search.genotype is not None:
            return load_for(search.genotype, shape, adapted=search.adapt)
        return prefix.fixed(shape) if search.mode == "none" else None

    def _prefix_size(self, settings: PrefixSettings, shape: PrefixShape) -> SizeRange:
        """Size of the network, or of all networks that the search may find; without LoRA."""
        genotype = self._given(settings, shape)
        if genotype is not None:
            return SizeRange.exactly(count_network(genotype))
        space = settings.space(shape)
        search = self.settings.search
        size, budget = count_space(space, shape, search.lead), search.held(space, shape)
        return size if budget is None else size.within(budget.wanted)

    def _nearest(self, at: Callable[[int], _Settings], shape: ModelShape, budget: int) -> _Settings:
        """The settings whose expected size is nearest to a budget, with that budget for the search.

        ``at`` returns the settings at a size, without a budget. A budget that is larger or smaller
        than all networks of the space is left out.
        """

        def count(size: int) -> int:
            return sum(type(self)(at(size)).count_parameters(shape).values())

        found = at(nearest_size(count, budget))
        low, high = type(self)(found).parameter_range(shape)
        if not low < budget < high:
            return found
        return found.model_copy(update={"search": found.search.held_to(budget)})
