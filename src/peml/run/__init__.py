"""Carries out a run, from its config to the finished model: the run folder and its phases."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.run.announcement import print_cautions, print_plan
    from peml.run.finished import (
        FinishedRun,
        RowText,
        differing_rows,
        load_finished,
        read_texts,
    )
    from peml.run.folder import RunFolder, differences
    from peml.run.identity import check_finished, check_identity, identify
    from peml.run.listener import RunStopped
    from peml.run.pipeline import Run, fit, plan
    from peml.run.preparation import Prepared, majority_of, prepare, with_config
    from peml.run.state import SessionState
    from peml.run.training import attach
    from peml.run.work_folder import WorkFolder
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "FinishedRun",
    "Prepared",
    "RowText",
    "Run",
    "RunFolder",
    "RunStopped",
    "SessionState",
    "WorkFolder",
    "attach",
    "check_finished",
    "check_identity",
    "differences",
    "differing_rows",
    "fit",
    "identify",
    "load_finished",
    "majority_of",
    "plan",
    "prepare",
    "print_cautions",
    "print_plan",
    "read_texts",
    "with_config",
]
