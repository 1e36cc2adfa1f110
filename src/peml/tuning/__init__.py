"""Tuning: trials of one run config over a space, on one machine or many, in one folder."""

from peml.tuning.pipeline import Tuned, check_study, tune
from peml.tuning.settings import StudyConfig, load_study, parse_study
from peml.tuning.space import Parameter

__all__ = ["Parameter", "StudyConfig", "Tuned", "check_study", "load_study", "parse_study", "tune"]
