"""What there is to know about a task's rows before anything is trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peml.data.encoding import EncodesExamples, encode_split
from peml.data.sources import TaskData, check_rows, load_source
from peml.tasks import Task, TaskType

__all__ = ["TaskInspection", "TokenLengths", "inspect_task"]


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """How long a task's rows are for a model, train and reported rows together.

    Attributes:
        median: Tokens of a middling row, its longest sequence.
        high: Tokens that 95 % of the rows don't exceed.
        longest: Tokens of the longest row, once cut.
        cut: Rows that lose tokens to the model's length limit.
    """

    median: int
    high: int
    longest: int
    cut: int


@dataclass(frozen=True, slots=True)
class TaskInspection:
    """One task's rows, all of them rendered without a problem.

    Attributes:
        data: Train and reported rows whole; nothing is carved for development.
        labels: Labels of the train rows, or of the reported rows where there is no train split.
        tokens: Lengths for a model, if one was given.
    """

    data: TaskData
    labels: list[int | float | str]
    tokens: TokenLengths | None


def inspect_task(
    task: Task,
    source: str | None = None,
    *,
    or_hub: bool = False,
    family: EncodesExamples | None = None,
) -> TaskInspection:
    """Loads and renders every row of a task, and tokenises it where a model family is given.

    Args:
        task: The task.
        source: Folder with one folder a task, read instead of the task's own source.
        or_hub: Whether a task that isn't in the folder is loaded from the hub.
        family: Tokenizer and length limit of a model.

    Raises:
        DataError: The rows can't be loaded, or one of them can't be rendered.
    """
    train, reported, origin = load_source(task, source, or_hub=or_hub)
    labels = check_rows(task, train, f"{origin}, train")
    said = check_rows(task, reported, f"{origin}, {' or '.join(task.splits.reported)}")
    return TaskInspection(
        data=TaskData(task, train, train.select([]), reported, origin),
        labels=labels or said,
        tokens=None if family is None else _token_lengths(task, train, reported, family),
    )


def _token_lengths(
    task: Task, train: Dataset, reported: Dataset, family: EncodesExamples
) -> TokenLengths:
    scored = "generate" if task.type is TaskType.GENERATION else "score"
    splits = [
        encode_split(rows, task, family, purpose)
        for rows, purpose in ((train, "train"), (reported, scored))
    ]
    lengths: np.ndarray[Any, Any] = np.concatenate([split.lengths for split in splits])
    median, high = np.percentile(lengths, [50, 95], method="higher")
    return TokenLengths(
        int(median), int(high), int(lengths.max()), cut=sum(split.cut for split in splits)
    )
