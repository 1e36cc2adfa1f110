"""The prefix as a trainable part: a network, and the injection that carries what it yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from peml.injection import PrefixInjection, attach_prefix, measure_start
from peml.methods.base import AttachContext, ParameterGroup
from peml.models import TaskModel
from peml.prefix import (
    Genotype,
    Prefix,
    PrefixNetwork,
    PrefixSettings,
    PrefixShape,
    PrefixStart,
    PrefixSupernet,
)

__all__ = ["PrefixPart", "attach_network", "attach_supernet"]


class PrefixPart(nn.Module):
    """Yields the prefix once per forward pass and hands it to the attention layers.

    Args:
        injection: Where the prefix goes.
        network: The supernet during the search, the decided network afterwards.
        learning_rate: Default rate of the group `prefix`.
        architecture_learning_rate: Default rate of the group `architecture`.
    """

    name = "prefix"

    def __init__(
        self,
        injection: PrefixInjection,
        network: PrefixSupernet | PrefixNetwork,
        *,
        learning_rate: float,
        architecture_learning_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.injection = injection
        self.network = network
        self.weights: Mapping[str, Tensor] = {}
        self._learning_rate = learning_rate
        self._architecture_learning_rate = architecture_learning_rate

    def yielded(self) -> Prefix:
        """The prefix of the network as it stands."""
        if isinstance(self.network, PrefixSupernet):
            return self.network(self.weights)
        return self.network()

    def prepare(self) -> None:
        """Puts a fresh prefix in front of every layer."""
        self.injection.set(self.yielded())

    def groups(self) -> list[ParameterGroup]:
        """`prefix`, and `architecture` while there are decisions."""
        if isinstance(self.network, PrefixNetwork):
            return [self._group("prefix", list(self.network.parameters()))]
        # Decisions have no decay: neither of their size nor of their rate, which the
        # temperature's schedule already anneals.
        architecture = ParameterGroup(
            "architecture",
            self.network.architecture_parameters(),
            self._architecture_learning_rate,
            {"weight_decay": 0.0, "betas": (0.5, 0.999), "constant_rate": True},
        )
        return [self._group("prefix", self.network.weight_parameters()), architecture]

    def _group(self, name: str, parameters: list[nn.Parameter]) -> ParameterGroup:
        return ParameterGroup(name, parameters, self._learning_rate)

    def disabled(self) -> AbstractContextManager[None]:
        """The model without its prefix."""
        return self.injection.disabled()

    def save(self, folder: Path, base_model: str) -> None:
        """Nothing: no other tool reads a prefix that does not shift positions."""

    def merge(self) -> None:
        """A prefix is no weight: it stays beside the model, see `static_prefix`."""

    def static_prefix(self) -> Prefix:
        """The prefix as numbers."""
        with torch.no_grad():
            return self.yielded().detached()


def _start(
    model: TaskModel, context: AttachContext, quietness: float
) -> tuple[PrefixInjection, PrefixStart]:
    injection = attach_prefix(model.backbone)
    # The radii are in the model's own units; the network scales them.
    start = measure_start(injection, context.calibrate, quietness=quietness, radius=1.0)
    return injection, start


def attach_supernet(
    model: TaskModel, settings: PrefixSettings, context: AttachContext, **rates: float
) -> PrefixPart:
    """A prefix whose network is still to be found."""
    injection, start = _start(model, context, settings.quietness)
    shape: PrefixShape = injection.shape
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        network = PrefixSupernet(settings.space(shape), shape, start)
    part = PrefixPart(injection, network.to(model.device), **rates)
    part.weights = network.uniform_weights()
    return part


def attach_network(
    model: TaskModel,
    genotype: Callable[[PrefixShape], Genotype],
    quietness: float,
    context: AttachContext,
    **rates: float,
) -> PrefixPart:
    """A prefix whose network is known, given the shape of the model's attention."""
    injection, start = _start(model, context, quietness)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        network = PrefixNetwork(genotype(injection.shape), injection.shape, start)
    return PrefixPart(injection, network.to(model.device), **rates)
