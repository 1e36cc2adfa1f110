"""Config sections of LoRA and its relatives; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from peml.methods.base import MethodSettings
from peml.methods.layers import Layers, LinearShape
from peml.methods.shape import nearest_size
from peml.settings import Settings

if TYPE_CHECKING:
    from peml.methods.shape import ModelShape


class UpdateSettings(Settings):
    """Common settings of all updates of linear layers.

    Attributes:
        embeddings: Whether the method can adapt an embedding.
    """

    embeddings: ClassVar[bool] = False

    dropout: float = Field(0.0, description="Dropout on the update's input.", ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    """As in PEFT: names, a regular expression, or all-linear."""
    learning_rate: float = Field(5e-4, description="Default rate of the update's group.", gt=0)

    @property
    def target_setting(self) -> str:
        """Full name of ``target_modules`` in a config, in the method's section or below it."""
        section = "method" if isinstance(self, MethodSettings) else "method.lora"
        return f"{section}.target_modules"

    def targets(self, layers: Layers) -> tuple[LinearShape, ...]:
        """The layers that get an update; raises as `Layers.select`."""
        return layers.select(
            self.target_modules, setting=self.target_setting, embeddings=self.embeddings
        )


class LowRankSettings(UpdateSettings):
    """An update through PEFT, whose size is a rank.

    Attributes:
        group: Name of the part and of its parameters' group.
    """

    group: ClassVar[str] = "lora"

    @abstractmethod
    def count_layer(self, layer: LinearShape) -> int:
        """The number of one layer's trainable parameters, in closed form."""

    def at_rank(self, r: int) -> Self:
        """The same with another rank."""
        return self.model_copy(update={"r": r})

    def count_parameters(self, shape: ModelShape) -> int:
        """The number of trainable parameters, in closed form."""
        return sum(self.count_layer(layer) for layer in self.targets(shape.layers))

    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The rank nearest to a budget."""
        return self.at_rank(nearest_size(lambda r: self.at_rank(r).count_parameters(shape), budget))


class LoraSettings(LowRankSettings):
    """Low-rank updates of the model's linear layers.

    Attributes:
        peft_options: Options of PEFT's ``LoraConfig`` that distinguish the method from LoRA.
    """

    embeddings: ClassVar[bool] = True
    peft_options: ClassVar[Mapping[str, Any]] = {}

    r: int = Field(8, description="Rank.", ge=1)
    alpha: float = Field(16.0, description="The update is scaled by alpha / r.", gt=0)

    def count_layer(self, layer: LinearShape) -> int:
        return self.r * (layer.d_in + layer.d_out)

    def at_rank(self, r: int) -> Self:
        """Another rank; alpha / r stays."""
        return self.model_copy(update={"r": r, "alpha": self.alpha / self.r * r})


class LoraMethodSettings(LoraSettings, MethodSettings):
    """LoRA alone."""

    nested: ClassVar[str] = "lora"

    name: Literal["lora"] = "lora"


class DoraSettings(LoraSettings, MethodSettings):
    """Low-rank updates of the direction, and a magnitude for each output."""

    nested: ClassVar[str] = "lora"
    peft_options: ClassVar[Mapping[str, Any]] = {"use_dora": True}
    embeddings: ClassVar[bool] = False

    name: Literal["dora"] = "dora"
    learning_rate: float = Field(5e-4, gt=0)
    """Default rate of the groups `lora` and `magnitude`."""

    def count_magnitudes(self, shape: ModelShape) -> int:
        """The number of magnitudes: d_out for each layer."""
        return sum(layer.d_out for layer in self.targets(shape.layers))

    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The settings with the rank for the part of a budget without the magnitudes."""
        return super().resized(shape, budget - self.count_magnitudes(shape))


class RsLoraSettings(LoraSettings, MethodSettings):
    """Low-rank updates whose scale shrinks with the root of the rank."""

    nested: ClassVar[str] = "lora"
    peft_options: ClassVar[Mapping[str, Any]] = {"use_rslora": True}

    name: Literal["rslora"] = "rslora"
    alpha: float = Field(16.0, description="The update is scaled by alpha / sqrt(r).", gt=0)

    def at_rank(self, r: int) -> Self:
        """Another rank; alpha stays, since the method's scale fits all ranks with one alpha."""
        return self.model_copy(update={"r": r})


class AdaLoraSettings(LowRankSettings, MethodSettings):
    """Updates B diag(E) A whose ranks are pruned to a budget shared by all layers."""

    nested: ClassVar[str] = "lora"

    name: Literal["adalora"] = "adalora"
    init_r: int = Field(12, description="Rank of every layer at the start.", ge=2)
    target_r: int = Field(8, description="Mean rank of the layers at the end.", ge=1)
    alpha: float = Field(32.0, description="The update is scaled by alpha / init_r.", gt=0)
    tinit: float = Field(0.1, ge=0, lt=1)
    """Fraction of the steps before the first rank is pruned."""
    tfinal: float = Field(0.4, ge=0, lt=1)
    """Fraction of the steps after the last rank is pruned."""
    delta_t: int = Field(1, description="Steps between two prunings.", ge=1)
    beta1: float = Field(0.85, description="Smoothing of the sensitivity scores.", gt=0, lt=1)
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing of the sensitivity's uncertainty."""
    orth_reg_weight: float = Field(0.5, ge=0)
    """Weight of the loss that keeps A's rows and B's columns orthogonal."""
    learning_rate: float = Field(1e-3, description="Default rate of the group `lora`.", gt=0)

    @model_validator(mode="after")
    def _fitting(self) -> AdaLoraSettings:
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r={self.target_r} leaves nothing to prune from init_r={self.init_r}; "
                "lower target_r or raise init_r"
            )
        if self.tinit + self.tfinal >= 1:
            raise ValueError(
                f"tinit={self.tinit:g} and tfinal={self.tfinal:g} leave no steps to prune in; "
                "their sum has to be below 1"
            )
        return self

    def count_layer(self, layer: LinearShape) -> int:
        """The number of trainable parameters: init_r (d_in + d_out + 1), including pruned ones."""
        return self.init_r * (layer.d_in + layer.d_out + 1)

    def at_rank(self, r: int) -> Self:
        """Another first rank; target_r / init_r and alpha / init_r stay."""
        r = max(2, r)  # a rank of 1 can't be pruned
        target = min(r - 1, max(1, round(self.target_r / self.init_r * r)))
        alpha = self.alpha / self.init_r * r
        return self.model_copy(update={"init_r": r, "target_r": target, "alpha": alpha})


class HiraSettings(LowRankSettings, MethodSettings):
    """Updates W * (B A), element by element: a high rank with LoRA's number of parameters."""

    group: ClassVar[str] = "hira"

    name: Literal["hira"] = "hira"
    r: int = Field(32, description="Rank of B A.", ge=1)
    learning_rate: float = Field(5e-3, description="Default rate of the group `hira`.", gt=0)

    def count_layer(self, layer: LinearShape) -> int:
        return self.r * (layer.d_in + layer.d_out)


class MissSettings(LowRankSettings, MethodSettings):
    """Updates B (x_1 + x_2 + ...): sums the inputs' shards of r channels, then one matrix."""

    group: ClassVar[str] = "miss"

    name: Literal["miss"] = "miss"
    r: int = Field(16, ge=1)
    """Size of a shard in channels; at most a layer's input size."""

    def count_layer(self, layer: LinearShape) -> int:
        return self.r * layer.d_out
