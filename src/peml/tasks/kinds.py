"""The types of tasks, and the metrics that can score each."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Self

Averaging = Literal["tasks", "rows"]
"""The unit with equal weight in a mean over tasks: each task, or each row."""

Normalisation = Literal["none", "tokens", "bytes", "pmi"]
"""How the likelihood of an option is normalised."""


Answer = Literal["label", "option", "score", "text"]
"""The answer to a row: one of the task's labels, one of the row's options, a score, or a text."""


_OF_LABELS = ("accuracy", "auroc", "average_precision", "em", "f1", "f1a", "macro_f1", "matthews")
_LABEL_SETTINGS = ("label_words", "labels", "normalisation", "segments", "weights")


class TaskType(StrEnum):
    """The type of a task; it decides how rows are encoded and scored.

    Each type is one object, so other code asks it instead of comparing types.

    Attributes:
        answer: The kind of answer, for which an encoder's head is made.
        metrics: Names of the metrics that can score it.
        settings: Settings that not every type has, and this one has.
        is_pair: Whether it compares two inputs, and needs exactly two.
    """

    _value_: str
    answer: Answer
    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    is_pair: bool

    # Type checkers think that TaskType("regression") calls this, hence the defaults.
    def __new__(
        cls,
        name: str,
        answer: Answer = "text",
        metrics: tuple[str, ...] = (),
        settings: tuple[str, ...] = (),
        is_pair: bool = False,
    ) -> Self:
        """A member whose value is its name in a task's definition."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.answer, member.is_pair = answer, is_pair
        member.metrics, member.settings = metrics, settings
        return member

    CLASSIFICATION = "classification", "label", _OF_LABELS, _LABEL_SETTINGS
    PAIR_CLASSIFICATION = "pair-classification", "label", _OF_LABELS, _LABEL_SETTINGS, True
    REGRESSION = (
        "regression",
        "score",
        ("mae", "pearson", "r2", "rmse", "spearman"),
        ("scale", "segments"),
    )
    MULTIPLE_CHOICE = (
        "multiple-choice",
        "option",
        ("accuracy", "span_em", "span_f1"),
        ("columns.choices", "columns.keys", "normalisation", "option", "segments"),
    )
    GENERATION = (
        "generation",
        "text",
        (
            *("bleu", "chrf", "exact_match", "number_match", "option_match"),
            *("rouge_1", "rouge_2", "rouge_l", "span_em", "span_f1"),
        ),
        ("columns.choices", "columns.keys", "max_new_tokens", "stop", "target"),
    )

    @property
    def has_labels(self) -> bool:
        """Whether the task names the labels that a row can have."""
        return self.answer == "label"

    @property
    def has_own_options(self) -> bool:
        """Whether each row brings the options to choose from."""
        return self.answer == "option"

    @property
    def has_scale(self) -> bool:
        """Whether the answer is a number on the task's scale."""
        return self.answer == "score"

    @property
    def generates(self) -> bool:
        """Whether the answer is a text that the model writes."""
        return self.answer == "text"

    @property
    def chooses(self) -> bool:
        """Whether the answer is the index of a label or an option, each with a score."""
        return self.has_labels or self.has_own_options

    @property
    def evaluated_as(self) -> Literal["score", "generate"]:
        """How a row is encoded for evaluation."""
        return "generate" if self.generates else "score"


METRICS = tuple(sorted({name for kind in TaskType for name in kind.metrics}))
"""Metric names.

``f1a`` is MultiRC's name for F1 over all answers; ``em`` is the share of groups of rows
(``columns.group``) that are right in every row. ``span_em`` and ``span_f1`` compare texts, and take
the best of several right ones. ``auroc`` and ``average_precision`` rank rows by the score of label
1; ``bleu`` and ``chrf`` are sacrebleu's, over all texts together, divided by 100.
"""


def describe_metrics() -> str:
    """The metrics of every type, types with the same metrics together."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind in TaskType:
        kinds.setdefault(kind.metrics, []).append(kind)
    return "; ".join(f"{', '.join(same)}: {', '.join(own)}" for own, same in kinds.items())


OF_SCORES = frozenset({"auroc", "average_precision"})
"""Metrics of the ranking of rows by their scores, not of the answers."""

BINARY = frozenset({"f1", "f1a"}) | OF_SCORES
"""Metrics that need exactly two labels, of which the second is the positive one."""

BELONGING: Mapping[str, str] = MappingProxyType(
    {
        "columns.choices": "has none",
        "columns.keys": "has none",
        "label_words": "has none",
        "labels": "has none",
        "max_new_tokens": "generates nothing",
        "normalisation": "compares no options",
        "option": "has none",
        "scale": "has none",
        "segments": "is for no encoder",
        "stop": "generates nothing",
        "target": "generates nothing",
        "weights": "has no labels to balance",
    }
)
"""Settings that only some task types have, and why the other types don't have them."""

OVER_GROUPS = frozenset({"em"})
OF_TEXTS = frozenset({"span_em", "span_f1"})

LOWER_IS_BETTER = frozenset({"mae", "rmse"})
"""Metrics that can't be a headline, since the highest headline is taken as the best."""
