"""Formats numbers for tables, reports and the terminal."""

import math

NOTHING = "\u2013"
"""Shown instead of a missing number."""


def score(value: float | None, deviation: float | None = None) -> str:
    """A score with three decimals, with the standard deviation over seeds if there is one."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not finite"
    shown = _minus(f"{value:.3f}")
    return f"{shown} {plus_minus(deviation)}" if deviation is not None else shown


def plus_minus(deviation: float | None) -> str:
    """A standard deviation of scores; empty if there is none (a single seed)."""
    return "" if deviation is None else f"\u00b1 {deviation:.3f}"


def signed(value: float | None) -> str:
    """A difference of scores, with its sign."""
    return NOTHING if value is None else _minus(f"{value:+.3f}")


def change(value: float | None, reference: float) -> str:
    """The difference to a reference; empty if one of them is no finite number."""
    if value is None or not math.isfinite(value - reference):
        return ""
    return signed(value - reference)


def interval(low: float | None, high: float | None) -> str:
    """An interval of differences; empty if there is none."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def seconds(value: float | None) -> str:
    """Seconds, short enough for a column."""
    if value is None:
        return NOTHING
    if value < 100:
        return f"{value:.1f} s" if value else "0 s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def share(value: float | None) -> str:
    """A signed share as percent; empty if there is none."""
    return "" if value is None else _minus(f"{100 * value:+.1f}") + " %"


def memory(value: float | None) -> str:
    """Bytes in GiB, or in MiB if less than one GiB."""
    if value is None:
        return NOTHING
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def ratio(value: float | None, reference: float | None) -> str:
    """The value divided by the reference."""
    return f"{value / reference:.2f}" if value is not None and reference else NOTHING


def _minus(text: str) -> str:
    """Replaces the hyphen by a minus sign; removes the sign of zero."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")
