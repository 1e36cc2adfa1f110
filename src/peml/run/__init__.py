"""A run: its folder, its phases, from a config to a finished model."""

from peml.run.folder import RunFolder, differences, lock_folder
from peml.run.pipeline import Run, fit, plan
from peml.run.preparation import Prepared, prepare, with_config
from peml.run.training import attach

__all__ = [
    "Prepared",
    "Run",
    "RunFolder",
    "attach",
    "differences",
    "fit",
    "lock_folder",
    "plan",
    "prepare",
    "with_config",
]
