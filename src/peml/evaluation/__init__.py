"""Evaluation: predictions, metrics and baselines."""

from peml.evaluation.evaluate import (
    GoldSplit,
    Predictions,
    predict_split,
    score_split,
)
from peml.evaluation.metrics import (
    METRICS,
    compute_metrics,
    majority_prediction,
)
from peml.evaluation.settings import EvaluationSettings

__all__ = [
    "METRICS",
    "EvaluationSettings",
    "GoldSplit",
    "Predictions",
    "compute_metrics",
    "majority_prediction",
    "predict_split",
    "score_split",
]
