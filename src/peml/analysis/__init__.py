"""Analysis of stored predictions: intervals, paired differences, mistakes."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.analysis.mistakes import Mistake, find_mistakes
    from peml.analysis.pairing import Contrast, RunContrast, TaskContrast, contrast_runs
    from peml.analysis.scores import (
        GroupScores,
        RunScores,
        mean_interval,
        score_interval,
        score_run,
    )
    from peml.analysis.statistics import Interval, PairedTask, paired_difference
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Contrast",
    "GroupScores",
    "Interval",
    "Mistake",
    "PairedTask",
    "RunContrast",
    "RunScores",
    "TaskContrast",
    "contrast_runs",
    "find_mistakes",
    "mean_interval",
    "paired_difference",
    "score_interval",
    "score_run",
]
