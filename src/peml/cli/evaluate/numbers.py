"""Formats numbers for tables and JSON."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from peml.analysis.statistics import Interval
from peml.run.finished import FinishedRun, differing_ways

Content = dict[str, Any]
"""What goes into the JSON file."""


def about(run: FinishedRun) -> Content:
    """Describes the run that the numbers belong to, for JSON."""
    found = run.results.model_dump(include={"method", "model", "seed"})
    return {"folder": str(run.folder), **found}


def tell_ways(first: FinishedRun, others: Sequence[FinishedRun], console: Console) -> list[str]:
    """Prints the settings besides rows and method by which scores of runs differ; returns them."""
    found = list(dict.fromkeys(way for run in others for way in differing_ways(first, run)))
    if found:
        said = f"these runs were scored in different ways: {'; '.join(found)}"
        console.print(said, style="yellow", soft_wrap=True)
    return found


def spread(interval: Interval, form: str = ".3f") -> tuple[str, str]:
    """A value and its interval, as two cells of a table."""
    low, high = number(interval.low, form), number(interval.high, form)
    return number(interval.value, form), f"{low} to {high}"


def number(value: float, form: str = ".3f") -> str:
    """A number as text; a dash if it is not finite."""
    return format(value, form) if math.isfinite(value) else "-"


def finite(value: Any) -> Any:
    """The content with None in place of numbers that are not finite, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
