"""Tuning: trials of one run config over a space, on one machine or many, in one folder."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.tuning.pipeline import tune
    from peml.tuning.settings import StudyConfig, load_study, parse_study
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "StudyConfig",
    "load_study",
    "parse_study",
    "tune",
]
