"""What a config says of the training of contexts; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from peml.methods.prefix.settings import attention_shape
from peml.settings import Settings

if TYPE_CHECKING:
    from peml.methods.shape import ModelShape


class CorrectionSettings(Settings):
    """Numbers per task that are added to the keys and values of its context, and trained."""

    trains: Literal["none", "values", "keys-values"] = Field(
        "none",
        description="What of a context is trained: nothing, its values, or its keys and values.",
    )
    kind: Literal["free", "low-rank"] = Field(
        "free",
        description="free: a parameter per number, from zero. low-rank: a product per layer, "
        "(positions x rank) at random times (rank x channels) from zero.",
    )
    rank: int = Field(8, description="Rank of low-rank.", ge=1)
    freeze_first: bool = Field(
        True,
        description="Leave a context's first position as computed, and never drop it: much "
        "attention rests on it.",
    )
    dropout: float = Field(
        0.05,
        description="Probability that a position of a context is left out in a training step.",
        ge=0,
        lt=1,
    )
    learning_rate: float = Field(
        1e-3,
        description="Default rate of the group `correction` (that of Context Tuning, arXiv "
        "2507.04221).",
        gt=0,
    )
    weight_decay: float | None = Field(
        None,
        description="Weight decay of the group `correction`; default: training.weight_decay.",
        ge=0,
    )

    @model_validator(mode="after")
    def _trains_what_is_set(self) -> CorrectionSettings:
        if self.trains == "none" and self != CorrectionSettings.model_construct():
            raise ValueError(
                "correction has settings, but trains nothing: set trains: values or keys-values"
            )
        return self

    @property
    def halves(self) -> int:
        """How many of keys and values train."""
        return {"none": 0, "values": 1, "keys-values": 2}[self.trains]

    @property
    def frozen_positions(self) -> int:
        """First positions that are neither trained nor dropped."""
        return int(self.freeze_first)

    def count(self, shape: ModelShape, contexts: Sequence[int]) -> int:
        """The closed form of the trainable parameters.

        Args:
            shape: Of the model.
            contexts: Tokens of each context that is held.
        """
        attention = attention_shape(shape)
        channels = attention.kv_heads * attention.head_dim
        rows = sum(max(0, length - self.frozen_positions) for length in contexts)
        if self.kind == "low-rank":
            numbers = self.rank * (rows + channels * len(contexts))
        else:
            numbers = rows * channels
        return attention.layers * self.halves * numbers

    def smaller(self) -> Iterator[CorrectionSettings]:
        """These settings, then ever lower ranks."""
        yield self
        if self.kind == "low-rank" and self.trains != "none":
            for rank in range(self.rank - 1, 0, -1):
                yield self.model_copy(update={"rank": rank})
