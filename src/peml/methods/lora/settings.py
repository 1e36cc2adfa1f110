"""What a config says of LoRA and its relatives; no torch, see `peml.methods.registry`."""

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


class LowRankSettings(Settings):
    """What the methods of the LoRA family have in common.

    Attributes:
        peft_options: What makes a method of PEFT's ``LoraConfig``.
        embeddings: Whether the method can adapt an embedding.
    """

    peft_options: ClassVar[Mapping[str, Any]] = {}
    embeddings: ClassVar[bool] = False

    alpha: float = Field(16.0, description="The update is scaled by alpha / r.", gt=0)
    dropout: float = Field(0.0, description="Dropout on the update's input.", ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="PEFT's target_modules: names, a regular expression, or all."
    )
    learning_rate: float = Field(5e-4, description="Default rate of the group `lora`.", gt=0)

    def targets(self, layers: Layers) -> tuple[LinearShape, ...]:
        """The layers that get an update.

        Raises:
            ModelError: See `Layers.select`.
        """
        return layers.select(
            self.target_modules,
            setting="method.lora.target_modules",
            embeddings=self.embeddings,
        )

    @abstractmethod
    def count_parameters(self, shape: ModelShape) -> int:
        """Closed form of the trainable parameters."""

    @abstractmethod
    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The rank nearest to a budget."""


class LoraSettings(LowRankSettings):
    """Low-rank updates of the model's linear layers."""

    embeddings: ClassVar[bool] = True

    r: int = Field(8, description="Rank.", ge=1)

    def count_parameters(self, shape: ModelShape) -> int:
        """Closed form: r (d_in + d_out) for each layer."""
        layers = self.targets(shape.layers)
        return sum(self.r * (layer.d_in + layer.d_out) for layer in layers)

    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The rank nearest to a budget."""
        return self.at_rank(nearest_size(lambda r: self.at_rank(r).count_parameters(shape), budget))

    def at_rank(self, r: int) -> Self:
        """Another rank; alpha / r stays."""
        return self.model_copy(update={"r": r, "alpha": self.alpha / self.r * r})


class LoraMethodSettings(MethodSettings):
    """LoRA alone."""

    name: Literal["lora"] = "lora"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")


class DoraSettings(LoraSettings):
    """Low-rank updates of the direction, and a magnitude for each output."""

    peft_options: ClassVar[Mapping[str, Any]] = {"use_dora": True}
    embeddings: ClassVar[bool] = False

    learning_rate: float = Field(
        5e-4, description="Default rate of the groups `lora` and `magnitude`.", gt=0
    )

    def count_magnitudes(self, shape: ModelShape) -> int:
        """Closed form: d_out for each layer."""
        return sum(layer.d_out for layer in self.targets(shape.layers))

    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The rank nearest to what the magnitudes leave of a budget."""
        return super().resized(shape, budget - self.count_magnitudes(shape))


class DoraMethodSettings(MethodSettings):
    """DoRA alone."""

    name: Literal["dora"] = "dora"
    lora: DoraSettings = Field(default_factory=lambda: DoraSettings(), description="The LoRA.")


class RsLoraSettings(LoraSettings):
    """Low-rank updates whose scale shrinks with the root of the rank."""

    peft_options: ClassVar[Mapping[str, Any]] = {"use_rslora": True}

    alpha: float = Field(16.0, description="The update is scaled by alpha / sqrt(r).", gt=0)

    def at_rank(self, r: int) -> Self:
        """Another rank; alpha stays, since one alpha for all ranks is what the method is for."""
        return self.model_copy(update={"r": r})


class RsLoraMethodSettings(MethodSettings):
    """Rank-stabilised LoRA alone."""

    name: Literal["rslora"] = "rslora"
    lora: RsLoraSettings = Field(default_factory=lambda: RsLoraSettings(), description="The LoRA.")


class AdaLoraSettings(LowRankSettings):
    """Updates B diag(E) A whose ranks are pruned to a budget shared by all layers."""

    init_r: int = Field(12, description="Rank of every layer at the start.", ge=2)
    target_r: int = Field(8, description="Mean rank of the layers at the end.", ge=1)
    alpha: float = Field(32.0, description="The update is scaled by alpha / init_r.", gt=0)
    tinit: float = Field(
        0.1, description="Share of the steps before the first rank is pruned.", ge=0, lt=1
    )
    tfinal: float = Field(
        0.4, description="Share of the steps after the last rank is pruned.", ge=0, lt=1
    )
    delta_t: int = Field(1, description="Steps between two prunings.", ge=1)
    beta1: float = Field(0.85, description="Smoothing of the sensitivity.", gt=0, lt=1)
    beta2: float = Field(0.85, description="Smoothing of its uncertainty.", gt=0, lt=1)
    orth_reg_weight: float = Field(
        0.5, description="Weight of the loss that keeps A's rows and B's columns orthogonal.", ge=0
    )
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

    def count_parameters(self, shape: ModelShape) -> int:
        """Closed form: init_r (d_in + d_out + 1) for each layer, all of which train."""
        layers = self.targets(shape.layers)
        return sum(self.init_r * (layer.d_in + layer.d_out + 1) for layer in layers)

    def resized(self, shape: ModelShape, budget: int) -> Self:
        """The first rank nearest to a budget; target_r / init_r and alpha / init_r stay."""
        return self._at_rank(
            nearest_size(lambda r: self._at_rank(r).count_parameters(shape), budget)
        )

    def _at_rank(self, init_r: int) -> Self:
        r = max(2, init_r)  # a rank of 1 can't be pruned
        target = min(r - 1, max(1, round(self.target_r / self.init_r * r)))
        alpha = self.alpha / self.init_r * r
        return self.model_copy(update={"init_r": r, "target_r": target, "alpha": alpha})


class AdaLoraMethodSettings(MethodSettings):
    """AdaLoRA alone."""

    name: Literal["adalora"] = "adalora"
    lora: AdaLoraSettings = Field(
        default_factory=lambda: AdaLoraSettings(), description="The LoRA."
    )
