"""Cautions on a run's scores, as sentences: leaked, cut and left-out rows.

They are made from ``plan.json`` alone, and shown at the start of a run, under its table, above its
report and in the tables of comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from peml.records.plan import LeakageEntry, Plan, PlannedTask
from peml.reporting.summary import join_names

_SHOWN = 4  # sentences of a kind
_NAMED = 8
_REPORTED = "reported"


class Kind(StrEnum):
    """The kinds of cautions."""

    INFLATED = "inflated"  # evaluation rows were trained on: the score that is shown is too high
    CHOICE = "choice"  # development rows were trained on: choices made by them are less reliable
    DROPPED = "dropped"  # such rows were found, and taken out of training
    CUT = "cut"  # rows were longer than the model takes
    SKIPPED = "skipped"  # a task was left out


@dataclass(frozen=True, slots=True)
class Caution:
    """A caution; `task` is the task whose score it concerns."""

    kind: Kind
    task: str
    text: str


def list_cautions(plan: Plan) -> list[Caution]:
    """All cautions of a plan; those that make scores wrong come first.

    Leaked rows do no harm if nothing is trained.
    """
    leaks = _leaks(plan) if plan.trains else []
    cut = [
        Caution(Kind.CUT, task.name, _cut(task, plan.max_length)) for task in plan.tasks if task.cut
    ]
    skipped = [
        Caution(Kind.SKIPPED, task.name, f"{task.name} is left out: {task.reason.rstrip('.')}.")
        for task in plan.skipped
    ]
    return [*leaks, *cut, *skipped]


def tell_cautions(plan: Plan, task: str | None = None) -> list[str]:
    """The cautions as sentences, shortened: a few of each kind, then the names of other tasks."""
    cautions = [one for one in list_cautions(plan) if task in (None, one.task)]
    told = []
    for kind in dict.fromkeys(caution.kind for caution in cautions):
        own = [caution for caution in cautions if caution.kind is kind]
        if kind is Kind.DROPPED and len(own) > 1:  # it does the scores no harm
            told.append(
                f"Train rows that are also in the evaluation splits of {_names(own)} were dropped "
                "from training (tasks.leakage: drop; plan.json has the numbers)."
            )
            continue
        rest = own[_SHOWN:]
        if len(rest) <= 1:  # one sentence is as short as a summary of one name
            told += [caution.text for caution in own]
            continue
        told += [caution.text for caution in own[:_SHOWN]]
        told.append(f"The same goes for {_names(rest)} (plan.json has the numbers).")
    return told


def _names(cautions: Sequence[Caution]) -> str:
    names = list(dict.fromkeys(caution.task for caution in cautions))
    if len(names) > _NAMED:
        names = [*names[:_NAMED], f"{len(names) - _NAMED:,} more"]
    return join_names(names)


def _leaks(plan: Plan) -> list[Caution]:
    """One caution for each evaluation split with leaks, reported splits first."""
    splits: dict[tuple[str, str], list[LeakageEntry]] = {}
    for entry in sorted(plan.leakage, key=lambda entry: entry.split != _REPORTED):
        splits.setdefault((entry.evaluation, entry.split), []).append(entry)
    dropped = plan.leakage_action == "drop"
    cautions = []
    for (name, split), entries in splits.items():
        kind = Kind.INFLATED if split == _REPORTED else Kind.CHOICE
        text = _leaked(entries, dropped=dropped)
        cautions.append(Caution(Kind.DROPPED if dropped else kind, name, text))
    return sorted(cautions, key=lambda caution: caution.kind is Kind.DROPPED)


def _leaked(entries: Sequence[LeakageEntry], *, dropped: bool) -> str:
    first = entries[0]
    one, more = ("was", "were") if dropped else ("is", "are")
    count = (
        f"{first.anywhere:,} of {first.evaluation_rows:,} rows of {first.evaluation}'s "
        f"{first.split} split {one if first.anywhere == 1 else more} also in "
        f"{_train_splits(entries)}"
    )
    if dropped:
        return f"{count}: dropped from training (tasks.leakage: drop)."
    own = any(entry.train == entry.evaluation for entry in entries)
    if first.split == _REPORTED:
        return f"{count}: its score {'is' if own else 'may be'} too high."
    return f"{count}: its development score is too high, and choices by it are less reliable."


def _train_splits(entries: Sequence[LeakageEntry]) -> str:
    if len(entries) > 1:
        listed = join_names([f"{entry.train} ({entry.rows:,})" for entry in entries])
        return f"the train splits of {listed}"
    entry = entries[0]
    owner = "its" if entry.train == entry.evaluation else f"{entry.train}'s"
    return f"{owner} train split"


def _cut(task: PlannedTask, max_length: int | None) -> str:
    parts = [
        f"{getattr(task, f'cut_{split}'):,} of its {getattr(task, split):,} {split} ones"
        for split in ("train", "development", "reported")
    ]
    rows, are = ("row", "is") if task.cut == 1 else ("rows", "are")
    limit = f" ({max_length} tokens)" if max_length is not None else ""
    return (
        f"{task.cut:,} {rows} of {task.name}, {join_names(parts)}, {are} cut to "
        f"model.max_length{limit}: the model doesn't see the rest."
    )
