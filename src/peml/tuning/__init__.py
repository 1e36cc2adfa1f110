"""Tuning: trials of one run config over a space, on one machine or many, in one folder."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.tuning.folder import StudyFolder
    from peml.tuning.pipeline import Tuned, check_study, tune, tune_together
    from peml.tuning.settings import (
        BudgetSettings,
        SamplerSettings,
        StudyConfig,
        load_study,
        parse_study,
    )
    from peml.tuning.space import Parameter, apply_values, check_space, first_values
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "BudgetSettings",
    "Parameter",
    "SamplerSettings",
    "StudyConfig",
    "StudyFolder",
    "Tuned",
    "apply_values",
    "check_space",
    "check_study",
    "first_values",
    "load_study",
    "parse_study",
    "tune",
    "tune_together",
]
