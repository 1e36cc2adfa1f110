"""The rows a model got most wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peml.evaluation.metrics import ROW_SCORES
from peml.evaluation.predictions import KeptPredictions


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row predicted wrong.

    Attributes:
        row: Number of the row in its source split, from 0.
        gold: The right answer: option index, score or text.
        predicted: The model's.
        margin: How wrong. With options: score of the predicted option less that of the right one;
            for scores, their distance; for texts, what the headline metric lacks of 1. NaN where
            the model's scores are not numbers.
    """

    row: int
    gold: Any
    predicted: Any
    margin: float


def find_mistakes(kept: KeptPredictions) -> list[Mistake]:
    """All rows predicted wrong, the most confidently wrong first; ties by row number."""
    found = [
        Mistake(row, gold, predicted, margin)
        for row, gold, predicted, margin, wrong in zip(
            kept.rows, kept.gold, kept.predicted, _margins(kept), _wrong(kept), strict=True
        )
        if wrong
    ]
    return sorted(
        found, key=lambda m: (math.isnan(m.margin), 0 if math.isnan(m.margin) else -m.margin, m.row)
    )


def _wrong(kept: KeptPredictions) -> list[bool]:
    if _in_text(kept):  # what the metric forgives, such as upper case, makes no mistake
        exact = ROW_SCORES["exact_match"](kept.gold, kept.predicted)
        return [not hit and margin > 0 for hit, margin in zip(exact, _margins(kept), strict=True)]
    return [gold != said for gold, said in zip(kept.gold, kept.predicted, strict=True)]


def _margins(kept: KeptPredictions) -> list[float]:
    if _in_text(kept):
        return [1 - score for score in ROW_SCORES[kept.task.metrics[0]](kept.gold, kept.predicted)]
    if kept.task.type.has_scale:
        return [abs(gold - said) for gold, said in zip(kept.gold, kept.predicted, strict=True)]
    answers = zip(kept.gold, kept.predicted, kept.scores, strict=True)
    # A diverged model has no scores: what is not finite is not kept.
    return [
        scores[said] - scores[gold] if max(gold, said) < len(scores) else math.nan
        for gold, said, scores in answers
    ]


def _in_text(kept: KeptPredictions) -> bool:
    return kept.task.type.generates or kept.task.answers_in_text
