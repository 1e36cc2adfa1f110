"""Carries out a run, from its config to the finished model: the run folder and its phases."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.run.listener import RunStopped
    from peml.run.pipeline import Run, fit, plan
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Run",
    "RunStopped",
    "fit",
    "plan",
]
