"""LoRA ranks as decisions of a search, one per group of modules."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from peml.errors import ConfigError, ModelError
from peml.methods.layers import LinearShape
from peml.methods.lora.lora import LoraPart
from peml.methods.lora.part import ADAPTER
from peml.methods.lora.settings import LoraSettings
from peml.prefix.space import RankGroup


def rank_groups(linears: Sequence[LinearShape], ranks: Sequence[int]) -> tuple[RankGroup, ...]:
    """Groups of linear layers whose paths differ only in their numbers."""
    costs: dict[str, int] = {}
    for layer in linears:
        name = _group(layer.name)
        costs[name] = costs.get(name, 0) + _cost(layer)
    return tuple(RankGroup(name, tuple(sorted(ranks)), cost) for name, cost in costs.items())


def count_lora(linears: Sequence[LinearShape], ranks: Mapping[str, int]) -> int:
    """Number of parameters of a LoRA with a rank for each group; no rank means no LoRA."""
    return sum(ranks.get(_group(one.name), 0) * _cost(one) for one in linears)


def with_ranks(settings: LoraSettings, ranks: Sequence[int]) -> LoraSettings:
    """The LoRA with the largest of these ranks, which contains the others; alpha / r stays."""
    return settings.at_rank(max(ranks)) if ranks else settings


def _cost(layer: LinearShape) -> int:
    """Parameters of an update of rank 1."""
    if layer.kind == "embedding":
        _refuse_embedding(layer.name)
    return layer.d_in + layer.d_out


def _refuse_embedding(path: str) -> NoReturn:
    raise ModelError(
        f"a LoRA on {path}, an embedding, has one rank, method.lora.r; it can't be searched",
        allowed="linear layers, where ranks are searched or given by a genotype",
        action="leave it out of method.lora.target_modules, or leave the ranks out",
    )


def _group(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", path)


class LoraRanks:
    """The ranks of a LoRA's groups, soft during a search and cut at its end.

    Ranks are nested: the update of rank r is that of the first r rows of ``A`` and columns of
    ``B``, ``(alpha / r_max) B diag(m) A``, where ``m_j`` is the summed weight of the ranks beyond
    j. At one-hot weights this equals the LoRA after `cut`.
    """

    def __init__(self, part: LoraPart) -> None:
        self._part = part
        self._layers: dict[str, dict[str, LoraLayer]] = {}
        for path, layer in part.layers().items():
            self._layers.setdefault(_group(path), {})[path] = layer
        self._groups: tuple[RankGroup, ...] = ()
        self._masks: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def soften(self, groups: Sequence[RankGroup]) -> None:
        """Lets the ranks of these groups follow the weights given to `mix`."""
        self._groups = tuple(groups)
        for group in groups:
            for layer in self._layers[group.name].values():
                hook = partial(self._masked, group.name)
                self._hooks.append(layer.lora_A[ADAPTER].register_forward_hook(hook))

    def mix(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the masks of the next forward passes from the decisions' weights."""
        for group in self._groups:
            if group.decision in weights:  # a single candidate is no decision
                row = weights[group.decision]
                reach = torch.tensor(group.ranks)[:, None] > torch.arange(group.ranks[-1])[None]
                self._masks[group.name] = row @ reach.to(row, non_blocking=True)

    def _masked(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        mask = self._masks.get(name)
        return output if mask is None else output * mask.to(output.dtype)

    def cut(self, ranks: Mapping[str, int]) -> None:
        """Removes all but the first rows and columns of every group's LoRAs.

        Raises:
            ConfigError: The ranks are for modules of another model.
        """
        if set(ranks) != set(self._layers):
            odd = ", ".join(sorted(set(ranks) ^ set(self._layers)))
            raise ConfigError(
                f"The genotype's LoRA ranks don't fit this model and its target_modules: {odd}",
                allowed=f"one rank for each of {', '.join(self._layers)}",
                action="correct `ranks` in the genotype, or leave it empty to train lora.r",
            )
        for hook in self._hooks:
            hook.remove()
        self._groups, self._hooks, self._masks = (), [], {}
        for name, rank in ranks.items():
            for path, layer in self._layers[name].items():
                if ADAPTER not in layer.lora_A:
                    _refuse_embedding(path)
                self._part.cut(path, layer, rank)
