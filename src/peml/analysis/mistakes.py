"""The rows that a model predicted wrong, worst first."""

import math
from dataclasses import dataclass
from typing import Any

from peml.evaluation.metrics import METRICS, ROW_SCORES
from peml.evaluation.predictions import TaskPredictions


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row predicted wrong.

    `margin` is how wrong it is. With options: score of the predicted option minus that of the right
    one; for scores: their distance; for texts: 1 minus the headline metric of the row alone. NaN if
    the model's scores are not numbers.
    """

    row: int
    gold: Any
    predicted: Any
    margin: float


def find_mistakes(kept: TaskPredictions) -> list[Mistake]:
    """All rows predicted wrong, largest margin first; ties by row number."""
    margins = _margins(kept)
    if _in_text(kept):  # differences that the metric ignores, such as upper case, are no mistakes
        exact = ROW_SCORES["exact_match"](kept.gold, kept.predicted)
        wrong = [not hit and margin > 0 for hit, margin in zip(exact, margins, strict=True)]
    else:
        wrong = [gold != said for gold, said in zip(kept.gold, kept.predicted, strict=True)]
    rows = zip(kept.rows, kept.gold, kept.predicted, margins, strict=True)
    mistakes = [Mistake(*row) for row, is_wrong in zip(rows, wrong, strict=True) if is_wrong]
    return sorted(
        mistakes,
        key=lambda m: (math.isnan(m.margin), 0 if math.isnan(m.margin) else -m.margin, m.row),
    )


def _margins(kept: TaskPredictions) -> list[float]:
    if _in_text(kept):
        headline = kept.task.metrics[0]
        if headline in ROW_SCORES:
            return [1 - score for score in ROW_SCORES[headline](kept.gold, kept.predicted)]
        pairs = zip(kept.gold, kept.predicted, strict=True)
        return [1 - METRICS[headline]([gold], [said]) for gold, said in pairs]
    if kept.task.type.has_scale:
        return [abs(gold - answer) for gold, answer in zip(kept.gold, kept.predicted, strict=True)]
    answers = zip(kept.gold, kept.predicted, kept.scores, strict=True)
    # The rows of a diverged model have no scores, since only finite ones are stored.
    return [
        scores[predicted] - scores[gold] if max(gold, predicted) < len(scores) else math.nan
        for gold, predicted, scores in answers
    ]


def _in_text(kept: TaskPredictions) -> bool:
    return kept.task.type.generates or kept.task.answers_in_text
