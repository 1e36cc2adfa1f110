"""The structure of a prefix network in a small file to read, edit, compare and train again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator

from peml.errors import ConfigError
from peml.files import write_text
from peml.prefix.operations.registry import refuse_unknown
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind, SearchSpace
from peml.problems import describe_problems, list_problems
from peml.records.run import GenotypeRecord

GENOTYPE_FORMAT = 1
"""Version of the file format this release writes and reads."""


class Genotype(GenotypeRecord):
    """The structure of a prefix network, and of the LoRA if its ranks were searched; no weights.

    It is checked more strictly than the record, since people also write it by hand, and a network
    is built from it.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True)

    format: int = Field(GENOTYPE_FORMAT, description="Version of this file's format.")
    head: HeadKind = Field(description="Output head: full or low-rank.")
    head_rank: int = Field(description="Rank of the head if it is low-rank.", ge=1)
    radius: float = Field(
        description="Maximum distance from the start, in units of the model's own keys and values.",
        gt=0,
    )
    shape: PrefixShape = Field(description="Attention layers of the model it was made for.")
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Rank of the LoRA per group of modules; empty if ranks were not searched.",
    )
    found_by: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="How it was found: relaxation, seed, probabilities, what the guard changed.",
    )

    @field_validator("format")
    @classmethod
    def _readable_format(cls, value: int) -> int:
        if value != GENOTYPE_FORMAT:
            raise ValueError(
                f"format {value} is not readable by this release, which reads {GENOTYPE_FORMAT}"
            )
        return value

    @field_validator("cells")
    @classmethod
    def _known_operations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refuse_unknown(value)
        return value

    @field_validator("layers")
    @classmethod
    def _some_layer(cls, value: tuple[bool, ...]) -> tuple[bool, ...]:
        if not any(value):
            raise ValueError("at least one layer must be true, or there is no prefix")
        return value

    @field_validator("shape")
    @classmethod
    def _positive_shape(cls, value: PrefixShape) -> PrefixShape:
        if min(value.layers, value.kv_heads, value.head_dim) < 1:
            raise ValueError(f"layers, kv_heads and head_dim must be at least 1, not {value}")
        return value

    @classmethod
    def from_choices(
        cls,
        space: SearchSpace,
        shape: PrefixShape,
        choices: Mapping[str, str],
        found_by: Mapping[str, JsonValue] | None = None,
    ) -> Genotype:
        """The genotype of one point of a search space.

        Raises:
            ConfigError: If the choices don't fit the space.
        """
        complete = space.complete(choices)
        head = next(kind for kind in space.heads if kind == complete["head"])  # of its own type
        return cls(
            cells=tuple(complete[f"cell.{index}"] for index in range(space.cells)),
            length=int(complete["length"]),
            layers=tuple(complete[f"layer.{index}"] == "on" for index in range(space.layers)),
            head=head,
            head_rank=space.head_rank,
            width=space.width,
            radius=space.radius,
            shape=shape,
            ranks={group.name: int(complete[group.decision]) for group in space.ranks},
            found_by=dict(found_by or {}),
        )

    @classmethod
    def fixed_mlp(
        cls,
        shape: PrefixShape,
        *,
        length: int = 16,
        width: int = 64,
        radius: float = 1.0,
        head: HeadKind = "full",
        head_rank: int = 16,
    ) -> Genotype:
        """A prefix network without a search: a two-layer tanh MLP, all layers, one head.

        The baseline of a searched prefix, close to the original prefix tuning (Li and Liang 2021,
        arXiv 2101.00190, section 4.3).
        """
        return cls(
            cells=("mlp-tanh",),
            length=length,
            layers=(True,) * shape.layers,
            head=head,
            head_rank=head_rank,
            width=width,
            radius=radius,
            shape=shape,
            found_by={"by": "fixed"},
        )

    @property
    def active_layers(self) -> tuple[int, ...]:
        """Indices of the layers that get a prefix."""
        return tuple(index for index, on in enumerate(self.layers) if on)

    def choices(self) -> dict[str, str]:
        """The option of every decision, by the decision's name in `SearchSpace`."""
        cells = {f"cell.{number}": name for number, name in enumerate(self.cells)}
        gates = {f"layer.{number}": "on" if on else "off" for number, on in enumerate(self.layers)}
        ranks = {f"rank.{group}": str(rank) for group, rank in self.ranks.items()}
        return {**cells, "length": str(self.length), **gates, "head": self.head, **ranks}

    def check_fits(self, shape: PrefixShape) -> None:
        """Raises a ConfigError if it was made for other attention layers."""
        if self.shape != shape or len(self.layers) != shape.layers:
            raise ConfigError(
                f"The genotype has {len(self.layers)} layer gates and was made for {self.shape}, "
                f"but the model's attention is {shape}.",
                allowed="a genotype of the same layers, kv_heads and head_dim",
                action="adapt it (`peml genotype check --adapt`, or method.search.adapt=true), or "
                "train it on the model it was made for",
            )

    def save(self, path: Path) -> None:
        """Writes the genotype as indented JSON with sorted keys; replaces an existing file."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Genotype:
        """Reads a genotype file.

        Raises:
            ConfigError: If the file is missing, not JSON, in another format, or has wrong fields;
                names all wrong fields.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"The genotype file {path} can't be read: {error.strerror}.",
                allowed="a genotype.json that a run or Genotype.save wrote",
                action="check the path",
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"The genotype file {path} is not JSON: {error}.",
                allowed="a genotype.json that a run or Genotype.save wrote",
                action="copy it again from its run folder, or correct the file",
            ) from error
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(
                list_problems(f"the genotype file {path}", describe_problems(error, cls)),
                allowed=f"format {GENOTYPE_FORMAT} with the fields {', '.join(cls.model_fields)}",
                action="correct the fields named above",
            ) from error
