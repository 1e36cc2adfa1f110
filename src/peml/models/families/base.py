"""What a model family is: how rows become inputs, and outputs become losses and scores."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import DataError
from peml.models.families.spelling import Spelling
from peml.tasks import Example, Task, TaskType

Purpose = Literal["train", "score", "generate"]


@dataclass(frozen=True, slots=True)
class EncodedSequence:
    """One tokenised sequence of an example.

    Attributes:
        input_ids: Token ids.
        target: Class index, score, or 1.0 on the right option and 0.0 elsewhere.
        labels: Target token ids, -100 where not scored, or None.
        token_type_ids: Segment ids, or None.
        cut: Tokens that were dropped because the text was too long.
        altered: Whether the tokenizer doesn't give the target's text back from its tokens.
        gap: White space between a prompt and what is to be generated, which is not in the prompt.
    """

    input_ids: list[int]
    target: float
    labels: list[int] | None = None
    token_type_ids: list[int] | None = None
    cut: int = 0
    altered: bool = False
    gap: str = ""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What one forward pass gives, whatever the family.

    Attributes:
        loss: Mean over examples, a scalar.
        losses: Loss of each example, (examples,).
        scores: Encoder: logits of all heads, (sequences, columns). Text families: log-likelihood
            of each sequence's target, (sequences,).
        auxiliary: What the method adds to a training step's loss, part of `loss`; None: nothing.
    """

    loss: Tensor
    losses: Tensor
    scores: Tensor
    auxiliary: Tensor | None = None

    def weighted(self, weights: Tensor) -> ModelOutput:
        """The same with each example's loss times its weight, (examples,)."""
        losses = self.losses * weights
        return replace(self, loss=losses.mean(), losses=losses)


class Family(ABC):
    """How one kind of model reads tasks.

    Made once per run by `load_backbone`; `encode` is called while data is prepared, the other
    methods in every step. Families that answer in text derive from `TextFamily`, those with heads
    from `EncoderFamily`. ``peml.testing.FamilySuite`` checks a family.

    Attributes:
        name: In configs and saved models.
        version: Of how rows are encoded; a cache made by another version is not used.
        task_types: What it can do.
        auto_class: The class in Transformers that loads its models.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    task_types: ClassVar[frozenset[TaskType]]
    auto_class: ClassVar[Any]

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        pooling: str,
        positions: int | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.spelling = Spelling(tokenizer, ends)
        self.max_length = max_length
        self.pooling = pooling
        self.positions = positions
        self.logits_everywhere = False  # set where a loaded text-to-text model needs it

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Whether ``model.family: auto`` takes a model with this config for one of the family."""
        return False

    @cached_property
    def tokenizer_rules(self) -> str:
        """The tokenizer as a text that is the same whenever it tokenises the same."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rules = json.dumps(self.tokenizer.get_vocab())
        else:
            # It remembers how it truncated and padded last; every call sets that anew.
            backend.no_truncation()
            backend.no_padding()
            rules = backend.to_str()
        special = sorted((k, str(v)) for k, v in self.tokenizer.special_tokens_map.items())
        return f"{rules}{special}"

    @abstractmethod
    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """Tokenises one example for training, for scoring its options, or for generation."""

    def altered_target(self, task: Task, example: Example) -> tuple[str, str] | None:
        """An answer that is another text once it is tokens, and that text; None: there is none.

        Called for an example to be shown, after `EncodedSequence.altered` has counted them.
        """
        return None

    @abstractmethod
    def build_heads(
        self, tasks: Sequence[Task], model: nn.Module, generator: torch.Generator
    ) -> nn.Module | None:
        """The per-task heads, or None where all tasks share the model's own."""

    @abstractmethod
    def forward(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        batch: TaskBatch,
        prompt: Tensor | None = None,
    ) -> ModelOutput:
        """Runs the model on a batch that may mix tasks.

        Args:
            model: The backbone.
            heads: What `build_heads` made.
            batch: Padded on the right.
            prompt: Vectors in front of the input embeddings, (prompt_length, channels).
        """

    @abstractmethod
    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Scores of a batch of one task.

        Returns:
            (examples, options) with -inf where an example has fewer options, or (examples,)
            for regression, on the task's scale.
        """

    def room_for_generation(self, prompt_length: int = 0) -> int | None:
        """Tokens that can be generated after the longest input; None: no limit.

        Args:
            prompt_length: Vectors in front of the input embeddings.
        """
        return self.positions

    def generate(
        self,
        model: Any,
        batch: TaskBatch,
        prompt: Tensor | None = None,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        gaps: Sequence[str] = (),
    ) -> list[str | None]:
        """Decodes greedily, up to the first stop string; only families with a text output can.

        Args:
            model: The backbone.
            batch: Prompts; a decoder's are padded on the left.
            prompt: Vectors in front of the input embeddings, (prompt_length, channels).
            max_new_tokens: Longest text in tokens.
            stop: A text ends before the first of these.
            gaps: White space that stood at the end of each prompt and is left to the model to
                write (`EncodedSequence.gap`); no stop string begins in it.

        Returns:
            A text a row; None where the model's logits are no numbers.
        """
        raise NotImplementedError(f"the family {self.name!r} does not generate text")


def is_named_decoder(config: Any) -> bool:
    """Whether the saved architecture is a decoder's; it decides where kinds of models overlap."""
    architectures = " ".join(config.architectures or ())
    return "CausalLM" in architectures or "LMHeadModel" in architectures


def pad_groups(scores: Tensor, groups: Tensor, examples: int) -> Tensor:
    """(sequences,) scores of options -> (examples, most options), padded with -inf."""
    counts = torch.bincount(groups, minlength=examples)
    first = counts.cumsum(0) - counts
    column = torch.arange(len(groups), device=groups.device) - first[groups]
    padded = scores.new_full((examples, int(counts.max())), -torch.inf)
    padded[groups, column] = scores
    return padded


def refuse_no_tokens(number: int, option: str) -> NoReturn:
    """Refuses an option that a model can't be asked about.

    Args:
        number: Its index in the row.
        option: Its text, of which the tokenizer makes no token.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f"option {number} (from 0), {option!r}, is nothing to the model's tokenizer.",
        allowed="options that the tokenizer makes tokens of",
        action="correct the row, or leave it out",
    )


def refuse_equal_tokens(
    options: Sequence[str], tokens: Sequence[Sequence[int]], tokenizer: Any
) -> None:
    """Refuses options of a row that differ as texts and not as tokens: they would always tie.

    Args:
        options: Their texts.
        tokens: Their tokens.
        tokenizer: Spells the tokens in the message.

    Raises:
        DataError: Two of them have the same tokens.
    """
    known: dict[tuple[int, ...], int] = {}
    for number, ids in enumerate(tokens):
        other = known.setdefault(tuple(ids), number)
        if options[other] != options[number]:
            spelled = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
            raise DataError(
                f"options {other} and {number} (from 0), {options[other]!r} and "
                f"{options[number]!r}, are the same to the model's tokenizer: {spelled}.",
                allowed="options (or label words) that the tokenizer tells apart",
                action="spell one of them differently (label_words, or the row), or choose a "
                "model whose tokenizer tells them apart",
            )
