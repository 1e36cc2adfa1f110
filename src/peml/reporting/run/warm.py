"""Compiles a run's templates; imported by the server that workers are forked from."""

from peml.reporting.rendering import prepare

prepare("card.md.j2", "report.css.j2", "report.html.j2", "report.md.j2")
