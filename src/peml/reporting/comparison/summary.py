"""A comparison in words: the best method, its lead, how certain that is, and any trouble."""

from collections.abc import Sequence

from peml.records.comparison import ComparisonRecord, IntervalRecord, SuiteRecord
from peml.reporting.numbers import interval, score, share
from peml.reporting.summary import join_names

_NAMES_SHOWN = 6
ENOUGH_SEEDS = 5
"""A method with fewer finished seeds gets a caution."""


def describe_suite(comparison: ComparisonRecord, suite: SuiteRecord) -> list[str]:
    """Sentences on the best method of a suite, and on the gain of the method in focus."""
    return [*_ranking(suite), *_focus(comparison, suite)]


def describe_trouble(suite: SuiteRecord) -> list[str]:
    """Sentences on flags, lost runs and narrow grids, to read before a suite's table."""
    return [*_few_seeds(suite), *describe_flags(suite), *_lost_cells(suite), *_grid_ends(suite)]


def describe_methods(comparison: ComparisonRecord) -> list[str]:
    """Sentences that hold for every suite: sizes, and each method's needs at inference."""
    sentences = []
    if comparison.match and comparison.budget is not None:
        sentences.append(
            f"Sizes were matched by {comparison.match} to {comparison.budget:,}"
            + (f" within {100 * comparison.tolerance:g} %." if comparison.tolerance else ".")
        )
        off = [
            f"{method.label} ({share(method.off_budget)})"
            for method in comparison.methods
            if method.off_budget is not None
            and abs(method.off_budget) > (comparison.tolerance or 0.0)
        ]
        if off:
            sentences.append(f"Outside the budget: {join_names(off)}.")
        own = [method.label for method in comparison.methods if method.off_budget is None]
        if own:
            sentences.append(f"Left at their own size: {join_names(own)}.")
    needing = [method.label for method in comparison.methods if method.needs_task_id]
    if needing:
        need = "needs" if len(needing) == 1 else "need"
        others = [method.label for method in comparison.methods if not method.needs_task_id]
        end = f"; {join_names(others)} {'does' if len(others) == 1 else 'do'} not" if others else ""
        sentences.append(f"{join_names(needing)} {need} the task's id at inference{end}.")
    never = [method.label for method in comparison.methods if method.merging == "never"]
    if never:
        sentences.append(f"{join_names(never)} can't be merged into the weights.")
    return sentences


def _ranking(suite: SuiteRecord) -> list[str]:
    ranked = suite.ranked()
    if not ranked:
        return [f"On {suite.name} no method has a score."]
    top = ranked[0]
    over = "1 task" if len(suite.tasks) == 1 else f"{len(suite.tasks)} tasks"
    seeds = "1 seed" if top.finished == 1 else f"{top.finished} seeds"
    flagged = ", flagged below" if top.flagged else ""
    sentence = (
        f"On {suite.name}, {top.label} has the highest mean over {over}: "
        f"{score(top.mean, top.deviation)} ({seeds}{flagged})"
    )
    if suite.majority_mean is not None:
        sentence += f"; the majority baseline reaches {score(suite.majority_mean)}"
    return [sentence + "."]


def _focus(comparison: ComparisonRecord, suite: SuiteRecord) -> list[str]:
    """Compares the focus method with the best baseline."""
    focus, base = suite.row(comparison.focus), suite.row(suite.best_baseline)
    if focus is None or base is None or focus is base:
        return []
    if focus.mean is None or base.mean is None:
        return [f"{focus.label} can't be compared with {base.label}: one of them has no mean."]
    found = focus.difference
    # Measured over common seeds, or else the difference of the two means.
    gap = found.value if found and found.value is not None else focus.mean - base.mean
    side = "above" if gap > 0 else "below"
    by = f"{score(abs(gap))} {side}" if score(abs(gap)) != "0.000" else "level with"
    sentence = f"{focus.label} is {by} {base.label}, the best of the other methods"
    if found is None or found.low is None:
        return [f"{sentence}; no interval was computed for it."]
    shown = f"the 95 % interval {interval(found.low, found.high)}"
    if len(focus.finished_seeds & base.finished_seeds) < 2:
        return [f"{sentence}; {shown} is of one seed and leaves out the variation between seeds."]
    if found.excludes_zero:
        verdict = f"{shown} excludes zero, so the difference is clear"
    else:
        verdict = f"{shown} includes zero, so it may be chance"
    return [f"{sentence}; {verdict}.", *_tasks(focus.label, found.tasks)]


def _tasks(label: str, tasks: dict[str, IntervalRecord]) -> list[str]:
    clear = {name: found.value or 0.0 for name, found in tasks.items() if found.excludes_zero}
    above = [name for name, value in clear.items() if value > 0]
    below = [name for name, value in clear.items() if value < 0]
    if not tasks:
        return []
    if not clear:
        return ["No single task shows a clear difference between the two."]
    parts = [
        f"clearly {word} on {_few(names)}"
        for word, names in (("better", above), ("worse", below))
        if names
    ]
    rest = len(tasks) - len(clear)
    left = f"; {rest} of {len(tasks)} tasks show no clear difference" if rest else ""
    return [f"Task by task {label} is {' and '.join(parts)}{left}."]


def _few_seeds(suite: SuiteRecord) -> list[str]:
    finished = [row.finished for row in suite.rows if row.finished]
    if not finished or min(finished) >= ENOUGH_SEEDS:
        return []
    count = min(finished)
    if count == 1:
        return [
            "Caution: one seed. Intervals cover the rows alone; another seed may differ by more."
        ]
    return [
        f"Caution: only {count} seeds. They say little about how much runs differ, so intervals "
        f"are wide; use {ENOUGH_SEEDS} or more."
    ]


def describe_flags(suite: SuiteRecord) -> list[str]:
    """Every flag and note once, with its methods and tasks."""
    carriers: dict[str, dict[str, list[str]]] = {}
    for row in suite.rows:
        for flag in (*row.flags, *row.notes):
            carriers.setdefault(flag, {}).setdefault(row.label, [])
        for task, found in row.tasks.items():
            for flag in (*found.flags, *found.notes):
                carriers.setdefault(flag, {}).setdefault(row.label, []).append(task)
    sentences = []
    for flag, by in carriers.items():
        named = [f"{label} ({_few(tasks)})" if tasks else label for label, tasks in by.items()]
        tasks = next(iter(by.values()))
        if len(by) == len(suite.rows) > 1 and all(other == tasks for other in by.values()):
            named = [f"every method ({_few(tasks)})" if tasks else "every method"]
        sentences.append(f"{'; '.join(named)}: {flag.rstrip('.')}.")
    return sentences


def _few(names: Sequence[str]) -> str:
    """The first few names and the number of others; the table's notes name all."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _lost_cells(suite: SuiteRecord) -> list[str]:
    sentences = []
    for status, opening in (("failed", "Failed"), ("missing", "Not run")):
        lost: dict[tuple[str, str], list[str]] = {}  # seeds, by method and reason
        for row in suite.rows:
            for cell in row.cells:
                if cell.status == status:
                    where = row.label, cell.reason.rstrip(".")
                    lost.setdefault(where, []).append(str(cell.seed))
        named = [
            f"{label}, {'seed' if len(seeds) == 1 else 'seeds'} {join_names(seeds)}"
            + (f" ({reason})" if reason else "")
            for (label, reason), seeds in lost.items()
        ]
        if named:
            sentences.append(f"{opening}: {'; '.join(named)}.")
    return sentences


def _grid_ends(suite: SuiteRecord) -> list[str]:
    """Methods for which factors beyond the grid might be better."""
    sentences = []
    for which, end in (("smallest", min), ("largest", max)):
        at_end: dict[float, list[str]] = {}
        for row in suite.rows:
            tried = [point.factor for point in row.grid]
            differ = len({point.mean for point in row.grid}) > 1  # not of a method without training
            if differ and row.factor == end(tried):
                at_end.setdefault(row.factor, []).append(row.label)
        sentences += [
            f"{join_names(labels)} took the {which} learning-rate factor of the grid, "
            f"{factor:g}: a wider grid may suit {'it' if len(labels) == 1 else 'them'} better."
            for factor, labels in at_end.items()
        ]
    return sentences
