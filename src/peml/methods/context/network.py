"""Contexts that are corrected by the prefix network."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from peml.data.batch import TaskBatch
from peml.injection.inject import PrefixInjection
from peml.methods.base import ParameterGroup
from peml.methods.prefix.part import PrefixPart
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import OnContext, Prefix
from peml.prefix.supernet import PrefixSupernet
from peml.switch import Switch

_KEPT = 1  # the first position, which the network leaves as it is; see `OnContext`


class ContextNetwork(PrefixPart):
    """Adds the prefix network's output to each task's context.

    A position's embedding is the network's own, which all tasks share, plus one of the task; cells
    and head are shared. So contexts may differ in length: a shorter one uses the network's first
    positions. Rows see no context in layers that the network switches off.

    `network`, the supernet during a search and then the chosen network, is as long as the longest
    context; `lengths` are the tokens of each task's context. `options` are those of `PrefixPart`.
    """

    def __init__(
        self,
        injection: PrefixInjection,
        network: PrefixSupernet | PrefixNetwork,
        *args: Any,
        lengths: Sequence[int],
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__(injection, network, *args, **options)
        shared = network.embeddings
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(n, shared.shape[1], generator=generator) for n in lengths]
        self.embeddings = nn.ParameterList(rows.to(shared.device) for rows in drawn)
        self._switch = Switch()

    def prepare(self, batch: TaskBatch | None = None) -> None:
        """Does nothing: `ContextPart` calls `add`."""

    def add(self, task: int, context: Prefix) -> Prefix:
        """A task's corrected context; in training some positions may be dropped."""
        if not self._switch.is_on:
            return context
        corrected = self.yielded(OnContext(context.tensor, self.embeddings[task]))
        if self.training and self._settings.dropout:
            return corrected.without_some(self._settings.dropout, keep=_KEPT)
        return corrected

    def groups(self) -> list[ParameterGroup]:
        """The network's groups; the tasks' embeddings are in the group of its weights."""
        weights, *others = super().groups()
        own = [*weights.parameters, *self.embeddings]
        return [replace(weights, parameters=own), *others]

    def disabled(self) -> AbstractContextManager[None]:
        return self._switch.off()

    def static_prefix(self) -> Prefix | None:
        """None, since the network's output is part of the contexts."""
        return None
