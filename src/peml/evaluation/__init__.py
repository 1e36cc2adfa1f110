"""Evaluation: predictions, metrics, baselines."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.evaluation.averages import common_average, gather_groups, mean_weights, weighted_mean
    from peml.evaluation.evaluate import (
        GoldSplit,
        Predictions,
        predict_split,
        read_gold,
        score_split,
        spell_gold,
    )
    from peml.evaluation.metrics import (
        describe_classes,
        majority_prediction,
        refuse_unscorable,
        score_constant,
    )
    from peml.evaluation.predictions import (
        KeptTask,
        TaskPredictions,
        first_mismatch,
        predictions_path,
        read_predictions,
        same_answer,
        write_predictions,
    )
    from peml.evaluation.settings import EvaluationSettings
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "EvaluationSettings",
    "GoldSplit",
    "KeptTask",
    "Predictions",
    "TaskPredictions",
    "common_average",
    "describe_classes",
    "first_mismatch",
    "gather_groups",
    "majority_prediction",
    "mean_weights",
    "predict_split",
    "predictions_path",
    "read_gold",
    "read_predictions",
    "refuse_unscorable",
    "same_answer",
    "score_constant",
    "score_split",
    "spell_gold",
    "weighted_mean",
    "write_predictions",
]
