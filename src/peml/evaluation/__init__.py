"""Evaluation: predictions, metrics, baselines, and intervals of differences."""

from peml.evaluation.averages import (
    common_average,
    gather_groups,
    mean_weights,
    weighted_mean,
)
from peml.evaluation.evaluate import (
    GoldSplit,
    Predictions,
    predict_split,
    read_gold,
    score_split,
    spell_gold,
)
from peml.evaluation.losses import mean_losses
from peml.evaluation.metrics import (
    GROUP_SCORES,
    METRICS,
    ROW_SCORES,
    compute_metrics,
    describe_classes,
    majority_prediction,
    score_constant,
)
from peml.evaluation.mistakes import Mistake, find_mistakes
from peml.evaluation.pairing import Contrast, RunContrast, TaskContrast, contrast_runs
from peml.evaluation.predictions import (
    KeptPredictions,
    KeptTask,
    first_mismatch,
    predictions_path,
    read_predictions,
    same_answer,
    write_predictions,
)
from peml.evaluation.scores import (
    GroupScores,
    RunScores,
    TaskScores,
    mean_interval,
    score_interval,
    score_run,
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
    "GROUP_SCORES",
    "METRICS",
    "ROW_SCORES",
    "Contrast",
    "EvaluationSettings",
    "GoldSplit",
    "GroupScores",
    "Interval",
    "KeptPredictions",
    "KeptTask",
    "Mistake",
    "PairedDifference",
    "PairedTask",
    "Predictions",
    "RunContrast",
    "RunScores",
    "TaskContrast",
    "TaskScores",
    "bootstrap_interval",
    "common_average",
    "compute_metrics",
    "contrast_runs",
    "describe_classes",
    "find_mistakes",
    "first_mismatch",
    "gather_groups",
    "majority_prediction",
    "mean_interval",
    "mean_losses",
    "mean_weights",
    "paired_difference",
    "predict_split",
    "predictions_path",
    "read_gold",
    "read_predictions",
    "same_answer",
    "score_constant",
    "score_interval",
    "score_run",
    "score_split",
    "spell_gold",
    "weighted_mean",
    "write_predictions",
]
