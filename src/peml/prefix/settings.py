"""Config section of the searched prefix."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from peml.prefix.genotype import Genotype
from peml.prefix.operations.registry import DEFAULT_OPERATIONS, refuse_unknown
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind, SearchSpace
from peml.settings import Settings


class PrefixBaseSettings(Settings):
    """The settings of every prefix: its start, and its optimiser options."""

    start: Literal["quiet", "text"] | None = None
    """Where keys and values start; default: quiet. quiet: keys that get little attention, and
    values at or near zero (flat), so that the model answers as before. text: the model's own keys
    and values of `text`. Evidence: quiet is 14 points better than a text (64.3, 50.6)."""
    text: str | None = None
    """Text whose keys and values the prefix starts at. It needs at least as many tokens as the
    prefix has positions; further tokens are cut."""
    quietness: float = Field(4.0, ge=0)
    """Quiet keys get an attention logit near minus this value. Larger values change the model less
    at the start and learn more slowly."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that a prefix position is left out in a training step."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the group `prefix`; default: training.weight_decay."""
    warmup: float | None = Field(None, ge=0, lt=1)
    """Fraction of the steps over which the learning rate of the group `prefix` warms up; default:
    training.warmup."""

    @model_validator(mode="after")
    def _text_to_start_at(self) -> Self:
        if (self.start == "text") != (self.text is not None):
            raise ValueError("start: text and text belong together: set both or neither")
        return self

    def group_options(self) -> dict[str, float]:
        """Options of the optimiser's group that differ from the run's."""
        options = {"weight_decay": self.weight_decay, "warmup": self.warmup}
        return {name: value for name, value in options.items() if value is not None}


class PrefixSettings(PrefixBaseSettings):
    """The prefix network: fixed settings, and candidates for the search.

    A field that takes a list is searched if it has two or more entries.
    """

    length: int | tuple[int, ...] = (8, 16)
    """Number of prefix positions; a list is searched."""
    width: int = Field(64, description="Hidden size of the prefix network.", ge=1)
    cells: int = Field(3, description="Number of cells, one operation each.", ge=1)
    operations: tuple[str, ...] = Field(DEFAULT_OPERATIONS, min_length=1)
    """Candidate operations of every cell."""
    layer_gates: bool = True
    """Search which model layers get a prefix. Set it to false if you plan to export to PEFT, whose
    format has a prefix in every layer."""
    head: HeadKind | tuple[HeadKind, ...] = "full"
    """Output head: full (one matrix, width x outputs) or low-rank (two factors, if the full one
    would be too large); a list searches both."""
    head_rank: int = Field(16, description="Rank of the low-rank head.", ge=1)
    radius: float = Field(1.0, gt=0)
    """How far training may move a key or value of the prefix from its start, in units of the
    model's own keys and values."""

    @field_validator("length")
    @classmethod
    def _sound_lengths(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        lengths = (value,) if isinstance(value, int) else value
        if not lengths or min(lengths) < 1 or len(set(lengths)) != len(lengths):
            raise ValueError(f"one or more different lengths of at least 1, not {value}")
        return value

    @field_validator("operations")
    @classmethod
    def _known_operations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refuse_unknown(value)
        if len(set(value)) != len(value):
            raise ValueError(f"an operation stands twice in {', '.join(value)}")
        return value

    @field_validator("head")
    @classmethod
    def _sound_heads(
        cls, value: HeadKind | tuple[HeadKind, ...]
    ) -> HeadKind | tuple[HeadKind, ...]:
        if not isinstance(value, str) and (not value or len(set(value)) != len(value)):
            raise ValueError(f"one or both of full and low-rank, not {list(value)}")
        return value

    def space(self, shape: PrefixShape) -> SearchSpace:
        """The decisions that these settings leave open for a model of this shape."""
        return SearchSpace(
            layers=shape.layers,
            cells=self.cells,
            operations=self.operations,
            lengths=(self.length,) if isinstance(self.length, int) else tuple(sorted(self.length)),
            layer_gates=self.layer_gates,
            heads=(self.head,) if isinstance(self.head, str) else self.head,
            head_rank=self.head_rank,
            width=self.width,
            radius=self.radius,
        )

    def fixed(self, shape: PrefixShape) -> Genotype:
        """The fixed network, without a search, as large as these settings allow.

        It has a two-layer MLP, the longest candidate length, every layer on, and the first
        candidate head.
        """
        space = self.space(shape)
        return Genotype.fixed_mlp(
            shape,
            length=space.max_length,
            width=self.width,
            radius=self.radius,
            head=space.heads[0],
            head_rank=self.head_rank,
        )
