"""`peml tasks`: list the suites, show one task with rendered rows, check your own files."""

from peml.cli.tasks.command import tasks_app

__all__ = ["tasks_app"]
