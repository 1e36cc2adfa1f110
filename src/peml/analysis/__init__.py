"""Analysis of kept predictions: intervals, paired differences, mistakes."""

from peml.analysis.mistakes import Mistake, find_mistakes
from peml.analysis.pairing import Contrast, RunContrast, TaskContrast, contrast_runs
from peml.analysis.scores import (
    GroupScores,
    RunScores,
    TaskScores,
    mean_interval,
    score_interval,
    score_run,
)
from peml.analysis.statistics import (
    Interval,
    PairedDifference,
    PairedTask,
    bootstrap_interval,
    paired_difference,
)

__all__ = [
    "Contrast",
    "GroupScores",
    "Interval",
    "Mistake",
    "PairedDifference",
    "PairedTask",
    "RunContrast",
    "RunScores",
    "TaskContrast",
    "TaskScores",
    "bootstrap_interval",
    "contrast_runs",
    "find_mistakes",
    "mean_interval",
    "paired_difference",
    "score_interval",
    "score_run",
]
