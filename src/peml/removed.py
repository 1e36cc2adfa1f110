"""Options that were removed because no measurement supports them, and how they are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Removed:
    """A removed option, or removed values of an option.

    Attributes:
        place: The end of its path in a config, from its section on.
        reason: Why it was removed, as the end of a sentence (search: docs/results/search.md).
        values: The removed values; empty if all were.
        idle: The value at which it had no effect, which configs of old runs contain.
        beside: A value that the option still has, if another option ends in the same path.
        commit: The last commit that had it.
    """

    place: str
    reason: str
    values: tuple[Any, ...] = ()
    idle: Any = None
    beside: str = ""
    commit: str = "34dc9a7"


_OFF = {"start": 0.0, "end": 0.0}
_ADAPTIVE = {"rate": 1.0, "bound": 4.0, "rows": 64}
_UNMEASURED = "no run showed what adaptive shares do to scores"
_REMOVED = (
    _Removed("search.skip_dropout", "scores are those without it (64.1, 64.3)", idle=0.0),
    _Removed("search.freeze_after", "no search ever froze early"),
    _Removed("search.equal_capacity", "scores are those without it (64.8, 64.3)", idle=False),
    _Removed("search.entropy", "scores are those without it (64.3, 64.3)", idle=_OFF),
    _Removed("search.beta_decay", "scores are those without it (64.9, 64.3)", idle=_OFF),
    _Removed("search.score_batches", "nothing but 4 was ever measured", idle=4),
    _Removed("temperature.shape", "a linear fall was never measured", idle="exponential"),
    _Removed(
        "prefix.placement",
        "a searched prompt is 9 points worse than a prefix (55.2, 64.3); prompt-tuning learns one",
        idle="attention",
    ),
    _Removed("start", "it is 6 points worse than quiet (58.4, 64.3)", ("zero",), beside="quiet"),
    _Removed("start", "it is 14 points worse than quiet (50.5, 64.3)", ("random",), beside="quiet"),
    _Removed("start", "no prompt is searched any more", ("vocabulary",)),
    _Removed("search.relaxation", "it is 2 points worse than gumbel", ("straight-through",)),
    _Removed("search.discretise", "scores are those of argmax (65.0, 64.3)", ("pruning",)),
    _Removed("search.order", "it is 4 to 7 points worse than parallel", ("prefix-first",)),
    _Removed("search.order", "it is 6 to 7 points worse than parallel", ("lora-first",)),
    _Removed("mixing.strategy", _UNMEASURED, ("adaptive",), commit="7be0e7a"),
    _Removed("mixing.adaptive", _UNMEASURED, idle=_ADAPTIVE, commit="7be0e7a"),
)


def why_removed(path: Sequence[Any], value: Any, allowed: Sequence[str] = ()) -> str | None:
    """Why an option with this value is refused; None if it was not removed.

    ``allowed`` are its remaining values, if there are several.
    """
    shown = ".".join(map(str, path))
    for one in _REMOVED:
        if f".{one.place}." not in f".{shown}." or (one.beside and one.beside not in allowed):
            continue
        if not one.values or value in one.values:
            what = f"{value!r} was taken out" if one.values else "taken out"
            return f"{what}, since {one.reason}; the last commit that had it is {one.commit}"
    return None


def without_removed(content: Any, section: str = "") -> Any:
    """The content of stored configs, without removed options that had no effect.

    Options that had an effect stay, and are refused when the content is validated.
    """
    if not isinstance(content, dict):
        return content
    idle = {one.place: one.idle for one in _REMOVED if not one.values}
    return {
        key: without_removed(value, str(key))
        for key, value in content.items()
        if f"{section}.{key}" not in idle or value != idle[f"{section}.{key}"]
    }
