"""Numbers as a comparison's tables and sentences show them."""

from __future__ import annotations

from peml.reporting.units import memory

NOTHING = "\u2013"
"""Stands where there is no number."""


def score(value: float | None, deviation: float | None = None) -> str:
    """A score from 0 to 1, with the standard deviation over seeds where there is one."""
    if value is None:
        return NOTHING
    shown = _minus(f"{value:.3f}")
    return f"{shown} {plus_minus(deviation)}" if deviation is not None else shown


def plus_minus(deviation: float | None) -> str:
    """A standard deviation of scores; empty where there is none (a single seed)."""
    return "" if deviation is None else f"\u00b1 {deviation:.3f}"


def signed(value: float | None) -> str:
    """A difference of scores, with its sign."""
    if value is None:
        return NOTHING
    return _minus(f"{value:+.3f}")


def interval(low: float | None, high: float | None) -> str:
    """An interval of differences; empty where there is none."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def seconds(value: float | None) -> str:
    """Seconds, short enough for a column."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0 s"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def share(value: float | None) -> str:
    """A signed share as percent; empty where there is none."""
    return "" if value is None else _minus(f"{100 * value:+.1f}") + " %"


def size(value: float | None) -> str:
    """Bytes, as MiB or GiB."""
    return NOTHING if value is None else memory(value)


def ratio(value: float | None, reference: float | None) -> str:
    """How many times the reference."""
    if value is None or not reference:
        return NOTHING
    return f"{value / reference:.2f}"


def _minus(text: str) -> str:
    """The sign, not a hyphen; no sign at zero."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")
