"""Evaluation: predictions, metrics, baselines, and intervals of differences."""

from peml.evaluation.evaluate import (
    GoldSplit,
    Predictions,
    predict_split,
    score_split,
)
from peml.evaluation.metrics import (
    METRICS,
    ROW_SCORES,
    compute_metrics,
    majority_prediction,
)
from peml.evaluation.settings import EvaluationSettings
from peml.evaluation.statistics import (
    Interval,
    PairedDifference,
    PairedTask,
    bootstrap_interval,
    paired_difference,
)

__all__ = [
    "METRICS",
    "ROW_SCORES",
    "EvaluationSettings",
    "GoldSplit",
    "Interval",
    "PairedDifference",
    "PairedTask",
    "Predictions",
    "bootstrap_interval",
    "compute_metrics",
    "majority_prediction",
    "paired_difference",
    "predict_split",
    "score_split",
]
