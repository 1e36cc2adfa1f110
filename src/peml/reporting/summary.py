"""A run's numbers in words: which tasks gain from which part, and which are flagged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from peml.records.run import Results, TaskResult

MAJORITY_NOTE = (
    "The most frequent answer of the reported rows themselves: the task has no train rows."
)
"""The explanation of that mark."""


Effect = Literal["helps", "hurts", "unclear"]
"""The effect of a part (the prefix, LoRA, ...) on a task."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task of the report's table.

    `flag` says why a task counts as not learnt; `effects` has the effect of each measured part.
    """

    name: str
    result: TaskResult
    flag: str
    effects: dict[str, Effect] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """The table's rows and the paragraph above it.

    Some task was scored without each of `parts`; `majority_note` explains a marked baseline.
    """

    rows: list[TaskRow]
    sentences: list[str]
    parts: list[str]
    majority_note: str


def noise(rows: int) -> float:
    """The largest standard error of an accuracy on so many rows: ``0.5 / sqrt(rows)``.

    A report calls larger differences clear. This is only a rule of thumb for other metrics, and
    generous if the same rows are scored twice.
    """
    return 0.5 / math.sqrt(max(rows, 1))


def summarise(results: Results) -> Summary:
    """Describes ``results.json`` in plain words."""
    rows = [TaskRow(n, t, _flag(t), _effects(t)) for n, t in results.tasks.items()]
    parts = results.parts
    sentences = [_headline(results)]
    if results.needs_task_id:
        sentences.append(f"{results.method} needs the task's id at inference.")
    elif results.merging == "never":
        sentences.append(f"{results.method} can't be merged into the weights.")
    for part in parts:
        sentences += _part_sentences(part, rows, results)
    flagged = [row.name for row in rows if row.flag.startswith("at or below")]
    if flagged:
        are = "is" if len(flagged) == 1 else "are"
        sentences.append(f"{join_names(flagged)} {are} at or below the majority baseline.")
    diverged = [row.name for row in rows if not math.isfinite(row.result.value)]
    if diverged:
        has = "has" if len(diverged) == 1 else "have"
        sentences.append(f"{join_names(diverged)} {has} no finite score: training diverged there.")
    for note in dict.fromkeys(note for row in rows for note in row.result.notes):
        named = join_names([row.name for row in rows if note in row.result.notes])
        sentences.append(f"{named}: {note}.")
    is_marked = any(task.majority_of == "reported" for task in results.tasks.values())
    return Summary(rows, sentences, parts, MAJORITY_NOTE if is_marked else "")


def join_names(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    head, last = names[:-1], names[-1]
    return f"{', '.join(head)} and {last}" if head else last


def part_title(part: str) -> str:
    """A part's name for readers."""
    return "LoRA" if part == "lora" else part.replace("_", " ")


def _flag(task: TaskResult) -> str:
    if not math.isfinite(task.value):
        return "diverged: no finite score"
    if not math.isfinite(task.majority):
        return ""
    if task.value <= task.majority:
        return "at or below majority"
    if task.value - task.majority <= noise(task.rows):
        return "not clearly above majority"
    return ""


def _effects(task: TaskResult) -> dict[str, Effect]:
    effects: dict[str, Effect] = {}
    for part, without in task.without.items():
        gain = task.value - without
        is_clear = math.isfinite(gain) and abs(gain) > noise(task.rows)
        effects[part] = "unclear" if not is_clear else "helps" if gain > 0 else "hurts"
    return effects


def _headline(results: Results) -> str:
    count = len(results.tasks)
    over = f"over {count} tasks" if count > 1 else f"on {next(iter(results.tasks))}"
    if count > 1 and results.average == "rows":
        over = f"over the rows of {count} tasks"
    if not math.isfinite(results.mean):
        return f"{results.method} on {results.model} has no finite mean {over}."
    sentence = (
        f"{results.method} on {results.model} reaches a mean of {results.mean:.3f} {over} "
        "on the reported split"
    )
    if math.isfinite(results.majority_mean):
        sentence += f"; the majority baseline reaches {results.majority_mean:.3f}"
    return sentence + "."


def _part_sentences(part: str, rows: Sequence[TaskRow], results: Results) -> list[str]:
    mean = results.ablation_means.get(part)
    subject = part_title(part) if part == "lora" else f"the {part_title(part)}"
    sentences = []
    if mean is not None and math.isfinite(mean):
        sentences.append(f"With {subject} switched off the mean is {mean:.3f}.")
    helped, hurt = (
        [row.name for row in rows if row.effects.get(part) == wanted]
        for wanted in ("helps", "hurts")
    )
    measured = sum(part in row.effects for row in rows)
    opening = subject[0].upper() + subject[1:]
    if helped:
        names = "every task" if len(helped) == measured > 1 else join_names(helped)
        sentences.append(f"{opening} clearly helps {names}.")
    if hurt:
        sentences.append(f"{opening} clearly hurts {join_names(hurt)}.")
    if not helped and not hurt:
        sentences.append(f"No task shows a clear difference with or without {subject}.")
    return sentences
