"""A run: its folder, its phases, from a config to a finished model."""

from peml.run.folder import RunFolder
from peml.run.pipeline import Run, fit, plan

__all__ = ["Run", "RunFolder", "fit", "plan"]
