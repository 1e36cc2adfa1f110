"""`peml evaluate`: what finished runs' predictions say, with intervals, tests and mistakes."""

from peml.cli.evaluate.command import evaluate_command

__all__ = ["evaluate_command"]
