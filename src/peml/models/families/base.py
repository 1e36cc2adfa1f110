"""The interface of a model family: rows to inputs, and outputs to losses and scores."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, NoReturn, Unpack

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import DataError, ModelError
from peml.models.families.spelling import Spelling
from peml.models.families.stopping import Limits
from peml.tasks import Example, Task, TaskType

Purpose = Literal["train", "score", "generate"]

_OF_LOADING = ("is_local", "local_files_only", "name_or_path")  # settings that are no rules


@dataclass(frozen=True, slots=True)
class EncodedSequence:
    """One tokenised sequence of an example.

    Attributes:
        input_ids: Token ids.
        target: Class index, score, or 1.0 for the right option and 0.0 for others.
        labels: Target token ids, -100 for tokens that are not scored, or None.
        token_type_ids: Segment ids, or None.
        cut: Number of tokens dropped because the text was too long.
        altered: Whether decoding the target's tokens gives a different text.
        gap: White space at the end of a prompt, which the model has to generate itself.
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
    """The result of one forward pass, the same for every family.

    Attributes:
        loss: Mean over examples, a scalar.
        losses: Loss of each example, (examples,).
        scores: Encoder: logits of all heads, (sequences, columns). Text families: log-likelihood
            of each sequence's target, (sequences,).
        auxiliary: The method's additional loss term, included in `loss`; None: no such term.
    """

    loss: Tensor
    losses: Tensor
    scores: Tensor
    auxiliary: Tensor | None = None

    def weighted(self, weights: Tensor) -> ModelOutput:
        """This output with each example's loss multiplied by its weight, (examples,)."""
        losses = self.losses * weights
        return replace(self, loss=losses.mean(), losses=losses)


class Family(ABC):
    """How one kind of model reads tasks.

    Made once per run by `load_backbone`; `encode` is called while data is prepared, the other
    methods in every step. Families that answer in text derive from `TextFamily`, those with heads
    from `EncoderFamily`. ``peml.testing.FamilySuite`` checks a family.

    Attributes:
        name: Name in configs and saved models.
        version: Version of the encoding of rows; caches of other versions are not used.
        task_types: Supported types of tasks.
        auto_class: The class in Transformers that loads its models.
        holds_contexts: Whether a task's context can be held as keys and values; `encode` then
            leaves `Example.context` out.
        packs: Whether its forward pass can read a batch as one sequence (`TaskBatch.packed`).
        shards: Whether it only calls its models as a whole, which sharded weights require.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    task_types: ClassVar[frozenset[TaskType]]
    auto_class: ClassVar[Any]
    holds_contexts: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    shards: ClassVar[bool] = False

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
        self.follows_rows = False  # set if no config limits the length, see `room`
        self.logits_everywhere = False  # set if a loaded text-to-text model needs it

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Whether ``model.family: auto`` chooses this family for a model with this config."""
        return False

    @cached_property
    def tokenizer_rules(self) -> str:
        """A text that identifies the tokenizer: equal if and only if it tokenises the same."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rules = _written(self.tokenizer)
        else:
            # Without truncation and padding of the last call; each call sets them again.
            backend.no_truncation()
            backend.no_padding()
            rules = backend.to_str()
        special = sorted((k, str(v)) for k, v in self.tokenizer.special_tokens_map.items())
        # Decides whether there are segment ids; otherwise DistilBERT's files are BERT's.
        rules += f"{special}{sorted(self.tokenizer.model_input_names)}"
        if self.tokenizer.split_special_tokens:
            rules += " split"
        target = self.tokenizer(text_target="")["input_ids"]  # in another language, with mBART
        return rules if target == self.tokenizer("")["input_ids"] else f"{rules}{target}"

    @property
    def special_texts(self) -> frozenset[str]:
        """The texts that the tokenizer reads as special tokens."""
        return frozenset(self.spelling.special.values())

    @abstractmethod
    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """Tokenises one example for training, for scoring its options, or for generation."""

    def context_tokens(self, text: str) -> list[int]:
        """The tokens of a text that the model holds as keys and values (`holds_contexts`)."""
        raise NotImplementedError(f"the family {self.name!r} does not hold contexts")

    def check_chat(self, task: Task) -> None:
        """Refuses a task that needs a chat template if this model has no usable one.

        Raises:
            ModelError: The family has none, or the tokenizer's can't be used.
        """
        raise ModelError(
            f"task {task.name!r} is asked through a chat template, and the family {self.name!r} "
            "reads no chats",
            allowed="decoder-only models whose tokenizer has a chat template",
            action="set tasks.chat: false, or choose a chat model",
        )

    def chat_template(self, task: Task) -> str:
        """The chat template for a task's prompts; empty if the task doesn't use one."""
        return ""

    def end_token(self, task: Task) -> int:
        """The token that ends an answer of a task; for text-to-text families."""
        end: int = self.tokenizer.eos_token_id
        return end

    def stops(self, task: Task) -> tuple[str, ...]:
        """The task's stop strings, and its end token if the model's files don't name it."""
        end = self.end_token(task)
        return task.stop if end in self.spelling.ends else (*task.stop, self.spelling.special[end])

    def altered_target(self, task: Task, example: Example) -> tuple[str, str] | None:
        """An answer that the tokenizer changes, and the changed text; None if it changes none.

        Called to show an example, after `EncodedSequence.altered` has counted them.
        """
        return None

    @abstractmethod
    def build_heads(
        self, tasks: Sequence[Task], model: nn.Module, generator: torch.Generator
    ) -> nn.Module | None:
        """The per-task heads, or None if all tasks share the language model head."""

    @abstractmethod
    def forward(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        batch: TaskBatch,
        prompt: Tensor | None = None,
    ) -> ModelOutput:
        """Runs the model on a batch that may mix tasks.

        The batch is padded on the right; `prompt` are vectors in front of the input embeddings,
        (prompt_length, channels).
        """

    @abstractmethod
    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Scores of a batch of one task.

        Returns:
            (examples, options), padded with -inf if an example has fewer options; for regression
            (examples,), on the task's scale.
        """

    def room_for_generation(self, prompt_length: int = 0) -> int | None:
        """Tokens that can be generated after the longest input and a prompt; None: no limit."""
        return self.positions

    def generate(
        self, model: Any, batch: TaskBatch, prompt: Tensor | None = None, **limits: Unpack[Limits]
    ) -> list[str | None]:
        """Decodes greedily, up to the first stop string; only text-to-text families can.

        A decoder's prompts are padded on the left; `prompt` is as for `forward`.

        Returns:
            One text per row; None if its logits were NaN or infinite.
        """
        raise NotImplementedError(f"the family {self.name!r} does not generate text")


def _written(tokenizer: Any) -> str:
    """The files of a tokenizer without a Rust backend: vocabulary, merges and settings."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        saved = (path for path in Path(folder).iterdir() if path.suffix != ".jinja")
        files = {path.name: path.read_bytes() for path in saved}
    settings = json.loads(files.pop("tokenizer_config.json"))
    settings = {name: value for name, value in settings.items() if name not in _OF_LOADING}
    return f"{sorted(settings.items())}{sorted(files.items())}{sorted(tokenizer.get_vocab())}"


def is_named_decoder(config: Any) -> bool:
    """Whether the saved architecture is a decoder's, for models that fit several families."""
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
    """Raises a DataError for an option of which the tokenizer makes no tokens."""
    raise DataError(
        f"option {number} (from 0), {option!r}, has no tokens in the model's tokenizer.",
        allowed="options of at least one token",
        action="correct the row, or leave it out",
    )


def refuse_equal_tokens(
    options: Sequence[str], tokens: Sequence[Sequence[int]], tokenizer: Any
) -> None:
    """Raises a DataError if different options have the same tokens, and so equal scores."""
    first: dict[tuple[int, ...], int] = {}
    for number, ids in enumerate(tokens):
        other = first.setdefault(tuple(ids), number)
        if options[other] != options[number]:
            spelled = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
            raise DataError(
                f"options {other} and {number} (from 0), {options[other]!r} and "
                f"{options[number]!r}, have the same tokens in the model's tokenizer: {spelled}.",
                allowed="options (or label words) with different tokens",
                action="write one of them differently (label_words, or the row), choose a model "
                "whose tokenizer distinguishes them, or raise model.max_length if they are cut",
            )
