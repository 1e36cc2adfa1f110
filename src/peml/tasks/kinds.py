"""What a task may be: its types, and the metrics that can score each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

Averaging = Literal["tasks", "rows"]
"""What counts alike in a mean over tasks: each task, or each row."""

Normalisation = Literal["none", "tokens", "bytes", "pmi"]
"""What the likelihood of an option is divided by, or set against."""


class TaskType(StrEnum):
    """What a row asks for; decides how it is encoded and scored."""

    CLASSIFICATION = "classification"
    PAIR_CLASSIFICATION = "pair-classification"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple-choice"
    GENERATION = "generation"


CLASSIFICATION = frozenset({TaskType.CLASSIFICATION, TaskType.PAIR_CLASSIFICATION})
_CHOICE = CLASSIFICATION | {TaskType.MULTIPLE_CHOICE}
_REGRESSION = frozenset({TaskType.REGRESSION})
_GENERATION = frozenset({TaskType.GENERATION})

METRICS: Mapping[str, frozenset[TaskType]] = MappingProxyType(
    {
        "accuracy": _CHOICE,
        "auroc": CLASSIFICATION,
        "average_precision": CLASSIFICATION,
        "bleu": _GENERATION,
        "chrf": _GENERATION,
        "em": CLASSIFICATION,
        "exact_match": _GENERATION,
        "f1": CLASSIFICATION,
        "f1a": CLASSIFICATION,
        "macro_f1": CLASSIFICATION,
        "mae": _REGRESSION,
        "matthews": CLASSIFICATION,
        "number_match": _GENERATION,
        "option_match": _GENERATION,
        "pearson": _REGRESSION,
        "r2": _REGRESSION,
        "rmse": _REGRESSION,
        "rouge_1": _GENERATION,
        "rouge_2": _GENERATION,
        "rouge_l": _GENERATION,
        "span_em": _GENERATION | {TaskType.MULTIPLE_CHOICE},
        "span_f1": _GENERATION | {TaskType.MULTIPLE_CHOICE},
        "spearman": _REGRESSION,
    }
)
"""Metric names, and the task types each one can score.

``f1a`` is MultiRC's name for F1 over all answers; ``em`` is the share of groups of rows
(``columns.group``) that are right in every row. ``span_em`` and ``span_f1`` compare texts, and take
the best of several right ones. ``auroc`` and ``average_precision`` rank rows by the score of label
1; ``bleu`` and ``chrf`` are sacrebleu's, over all texts together, divided by 100.
"""

OF_SCORES = frozenset({"auroc", "average_precision"})
"""Metrics of how rows are ranked by their scores, not of the answers."""

BINARY = frozenset({"f1", "f1a"}) | OF_SCORES
"""Metrics that need exactly two labels, of which the second is the positive one."""

_CHOOSING = frozenset({TaskType.MULTIPLE_CHOICE, TaskType.GENERATION})

BELONGING: Mapping[str, tuple[frozenset[TaskType], str]] = MappingProxyType(
    {
        "columns.choices": (_CHOOSING, "has none"),
        "columns.keys": (_CHOOSING, "has none"),
        "label_words": (CLASSIFICATION, "has none"),
        "labels": (CLASSIFICATION, "has none"),
        "max_new_tokens": (_GENERATION, "generates nothing"),
        "normalisation": (_CHOICE, "compares no options"),
        "option": (frozenset({TaskType.MULTIPLE_CHOICE}), "has none"),
        "scale": (_REGRESSION, "has none"),
        "segments": (frozenset(TaskType) - _GENERATION, "is for no encoder"),
        "stop": (_GENERATION, "generates nothing"),
        "target": (_GENERATION, "generates nothing"),
        "weights": (CLASSIFICATION, "has no labels to balance"),
    }
)
"""Settings of a task that only some types have: the types, and what to say of the others."""

OVER_GROUPS = frozenset({"em"})
OF_TEXTS = frozenset({"span_em", "span_f1"})

LOWER_IS_BETTER = frozenset({"mae", "rmse"})
"""Metrics that can't be a headline: a mean over tasks, and whatever chooses, wants the highest."""
