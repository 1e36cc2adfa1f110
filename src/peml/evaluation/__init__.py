"""Evaluation: predictions, metrics, baselines."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.evaluation.averages import common_average, gather_groups, mean_weights, weighted_mean
    from peml.evaluation.evaluate import GoldSplit, predict_split
    from peml.evaluation.metrics import refuse_unscorable
    from peml.evaluation.predictions import TaskPredictions, read_predictions
    from peml.evaluation.settings import EvaluationSettings
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "EvaluationSettings",
    "GoldSplit",
    "TaskPredictions",
    "common_average",
    "gather_groups",
    "mean_weights",
    "predict_split",
    "read_predictions",
    "refuse_unscorable",
    "weighted_mean",
]
