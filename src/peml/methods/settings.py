"""Config sections of the other methods; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from peml.methods.base import MethodSettings
from peml.methods.context.settings import ContextSettings
from peml.methods.lora.settings import LoraSettings
from peml.methods.prefix.settings import FixedPrefixSettings, SearchedPrefixSettings
from peml.prefix.settings import PrefixSettings


class FrozenSettings(MethodSettings):
    """The frozen model; it has no settings."""

    name: Literal["frozen"] = "frozen"
    trains: ClassVar[bool] = False


class FullSettings(MethodSettings):
    """Full fine-tuning."""

    name: Literal["full"] = "full"
    learning_rate: float = Field(5e-5, description="Default rate of the group `backbone`.", gt=0)


class LoraPrefixSettings(FixedPrefixSettings):
    """LoRA and a prefix that is fixed: from a two-layer MLP, or flat."""

    name: Literal["lora+prefix"] = "lora+prefix"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    prefix_learning_rate: float | None = Field(None, gt=0)
    """Default learning rate of the group `prefix`; default: 1e-3 for an MLP, and 0.1 for a flat
    prefix, which needs larger steps."""

    def smaller_prefixes(self) -> Iterator[LoraPrefixSettings]:
        """These settings, then smaller and smaller prefixes: shorter, or with a head of lower rank.

        The MLP's width is halved if even a head of rank 1 is too large.
        """
        yield self
        if self.network == "flat":
            for length in range(self.length - 1, 0, -1):
                yield self.model_copy(update={"length": length})
            return
        yield from smaller_heads(self)


class PemlSettings(SearchedPrefixSettings):
    """LoRA and a searched prefix."""

    name: Literal["peml"] = "peml"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    context: ContextSettings | None = None
    """A context per task, as in lora+context. The prefix network's output is then added to each
    task's context: prefix.length is not used, since the network is as long as the longest context,
    and prefix.layer_gates search which layers see the contexts. Default: none, a prefix that all
    tasks share."""
    lora_ranks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Candidate ranks of the LoRA, used instead of lora.r. One rank per group of modules (the same
    layer of every block) is searched together with the prefix. The scale stays lora.alpha / lora.r.
    Also set search.budget, which then counts LoRA and prefix; otherwise large ranks win, because
    more rank never increases the loss."""

    @model_validator(mode="after")
    def _fits_contexts(self) -> PemlSettings:
        if self.context is None:
            return self
        self.context.refuse_correction(self.prefix.dropout)
        if self.prefix.start == "text":
            raise ValueError("with a context, the prefix starts at it: leave prefix.start out")
        if self.lora_ranks or self.search.budget is not None:
            raise ValueError(
                "lora_ranks and search.budget count a prefix that all tasks share, and a context "
                "has embeddings per task: leave out the context, or these settings"
            )
        return self

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
        if self.lora_ranks and search.order == "search-first":
            raise ValueError(
                "lora_ranks can't be searched with search.order search-first, whose search runs "
                "without LoRA; allowed: parallel"
            )
        return self


_Network = TypeVar("_Network", PrefixSettings, LoraPrefixSettings)


def smaller_heads(network: _Network) -> Iterator[_Network]:
    """Smaller and smaller networks: low-rank heads of lower ranks, at lower widths."""
    for width in halvings(network.width):
        ranks = min(network.head_rank, width) if network.head == "low-rank" else width
        for rank in range(ranks, 0, -1):
            update = {"width": width, "head": "low-rank", "head_rank": rank}
            yield network.model_copy(update=update)


def halvings(width: int) -> Iterator[int]:
    """A width, its half, and so on down to 4; or the width itself if it is less."""
    yield width
    while width >= 8:
        width //= 2
        yield width
