"""Config sections of prefixes and prompts; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from peml.errors import ModelError
from peml.methods.base import MethodSettings
from peml.prefix.genotype import Genotype
from peml.prefix.settings import PrefixBaseSettings, PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind
from peml.search.settings import SearchSettings

if TYPE_CHECKING:
    from peml.methods.shape import ModelShape


class FixedPrefixSettings(PrefixBaseSettings, MethodSettings):
    """A prefix without a search: from a two-layer MLP, or keys and values trained directly."""

    # A row of a flat prefix moves by its own steps only, an MLP's with every weight of the head.
    # On MiniLM (SST-2 and MRPC, 70 steps, one seed) a flat prefix at the MLP's rate lowered the
    # training loss hardly more than the heads alone, and at 0.05 about as much as the MLP.
    rates: ClassVar[Mapping[str, float]] = {"mlp": 1e-3, "flat": 0.1}
    """Default learning rate by network."""

    network: Literal["mlp", "flat"] = "mlp"
    """mlp: embeddings, a two-layer MLP and a head generate the prefix; flat: every key and value is
    a parameter of its own."""
    length: int = Field(16, description="Number of prefix positions.", ge=1)
    width: int = Field(64, description="Hidden size of the MLP; not used by flat.", ge=1)
    radius: float = Field(1.0, gt=0)
    """How far training may move a key or value of the prefix from its start, in units of the
    model's own keys and values."""
    bounded: bool = True
    """Whether `radius` limits a flat prefix. An MLP's prefix is always limited."""
    head: HeadKind = "full"
    """Output head of the MLP: full (one matrix) or low-rank (two factors)."""
    head_rank: int = Field(16, description="Rank of the low-rank head.", ge=1)

    @model_validator(mode="after")
    def _sound_bound(self) -> FixedPrefixSettings:
        if not self.bounded and self.network == "mlp":
            raise ValueError(
                "an MLP's prefix is always bounded: set network: flat, or raise radius"
            )
        return self

    def genotype(self, shape: PrefixShape) -> Genotype:
        """The MLP for a model of this shape."""
        return Genotype.fixed_mlp(
            shape,
            length=self.length,
            width=self.width,
            radius=self.radius,
            head=self.head,
            head_rank=self.head_rank,
        )

    def count_prefix(self, shape: ModelShape) -> int:
        """The prefix's trainable parameters in closed form; raises as `attention_shape`."""
        from peml.prefix.size import count_flat, count_network

        attention = attention_shape(shape)
        if self.network == "flat":
            return count_flat(attention, self.length)
        return count_network(self.genotype(attention))


def attention_shape(shape: ModelShape) -> PrefixShape:
    """The shape of a prefix for a model; raises a ModelError if the model can't take one."""
    if shape.attention is None:
        raise ModelError(
            "this model can't take a prefix",
            allowed="models that use Transformers' attention interface",
            action="choose a method without a prefix; `peml doctor` gives the reason",
        )
    return shape.attention


class PrefixTuningSettings(FixedPrefixSettings):
    """A prefix alone, from a two-layer MLP or flat, the same for all tasks."""

    name: Literal["prefix-tuning"] = "prefix-tuning"
    # Without LoRA, the prefix needs a stronger start: see PrefixNasSettings.
    rates: ClassVar[Mapping[str, float]] = {"mlp": 2e-2, "flat": 0.2}
    quietness: float = Field(1.0, ge=0)
    """Quiet keys get an attention logit near minus this value. The default is lower than beside
    LoRA, because without LoRA the prefix needs a stronger start."""
    learning_rate: float | None = Field(None, gt=0)
    """Default learning rate of the group `prefix`; default: 2e-2 for an MLP, and 0.2 for a flat
    prefix, which needs larger steps."""


class PromptTuningSettings(MethodSettings):
    """Learnt vectors in front of the input, the same for all tasks."""

    name: Literal["prompt-tuning"] = "prompt-tuning"
    length: int = Field(20, description="Number of vectors before the input.", ge=1)
    start: Literal["vocabulary", "normal"] = "vocabulary"
    """vocabulary: embeddings of random tokens; normal: drawn from N(0, 1) as in PEFT, which is far
    from most models' embeddings and slow to learn."""
    learning_rate: float = Field(1e-2, description="Default rate of the group `prompt`.", gt=0)


class SearchedPrefixSettings(MethodSettings):
    """A prefix whose network is searched."""

    prefix: PrefixSettings = Field(default_factory=lambda: PrefixSettings())
    """The prefix and its search space."""
    search: SearchSettings = Field(default_factory=lambda: SearchSettings())
    """How the network is searched."""
    prefix_learning_rate: float = Field(1e-3, gt=0)
    """Default rate of the group `prefix`."""
    architecture_learning_rate: float = Field(3e-2, gt=0)
    """Default rate of the group `architecture`."""


class LonePrefixSettings(PrefixSettings):
    """The prefix network and its search space, without a LoRA beside it."""

    quietness: float = Field(1.0, ge=0)
    """Quiet keys get an attention logit near minus this value. The default is lower than in PEML,
    because without LoRA the prefix needs a stronger start."""


# With the rate and quietness of a prefix beside a LoRA (1e-3, 4), a prefix without LoRA has hardly
# changed after 600 steps: docs/results/search.md.
class PrefixNasSettings(SearchedPrefixSettings):
    """A searched prefix without LoRA."""

    name: Literal["prefix-nas"] = "prefix-nas"
    prefix: LonePrefixSettings = Field(default_factory=lambda: LonePrefixSettings())
    """The prefix and its search space."""
    prefix_learning_rate: float = Field(2e-2, gt=0)
    """Default rate of the group `prefix`."""

    @model_validator(mode="after")
    def _nothing_to_order(self) -> PrefixNasSettings:
        if self.search.order != "parallel":
            raise ValueError(
                f"search.order {self.search.order} orders LoRA and prefix, and prefix-nas has no "
                "LoRA: leave order out, or choose method peml"
            )
        return self
