"""Checks and statistics of a task's rows before training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from peml.data.batch import IGNORED
from peml.data.encoding import EncodedSplit, EncodesExamples, encode_rows, encode_split
from peml.data.odd_tokens import describe_same_tokens, describe_special_texts
from peml.data.rows import Rows
from peml.data.sources import TaskData, load_shots, load_source
from peml.errors import placed
from peml.tasks import SOURCE_ROW, Task, TaskRenderer

_TAIL = 40  # characters of a prompt that are shown
_SHOWN = 4  # answers


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths of a task's train and reported rows in tokens (each row's longest sequence).

    `high` is the 95th percentile; `longest` is measured after cutting to the model's limit, which
    shortens `cut` rows.
    """

    median: int
    high: int
    longest: int
    cut: int


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The answers to a task's first reported row, as a model would give them.

    `tail` is the end of the prompt. `answers` are the tokens of the first options, or of the right
    text; `more` is the number of other options.
    """

    tail: str
    answers: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Labels and oddities of rows that can all be used.

    `labels` are as in `Example`. Of the row numbers, `repeated` rows have an option twice, `empty`
    ones an empty right answer, and `blank` ones an input without text, such as an empty CSV cell.
    """

    labels: list[int | float | str]
    repeated: list[int]
    empty: list[int]
    blank: list[int]


@dataclass(frozen=True, slots=True)
class TaskInspection:
    """One task's rows, all of which can be rendered.

    `data` has no development split; `labels` are those of the train rows, or of the reported rows
    if there is no train split. `tokens` and `answers` are for a model, if one was given.
    """

    data: TaskData
    labels: list[int | float | str]
    tokens: TokenLengths | None
    answers: AnswerTokens | None
    notes: tuple[str, ...]


def inspect_task(
    task: Task,
    source: str | None = None,
    *,
    or_hub: bool = False,
    family: EncodesExamples | None = None,
) -> TaskInspection:
    """Loads and renders every row of a task, and tokenises it if a model family is given.

    `source` is a folder with one folder per task, read instead of the task's source.

    Raises:
        DataError: The rows can't be loaded, or one of them can't be rendered.
    """
    train, reported, origin = load_source(task, source, or_hub=or_hub)
    task = load_shots(task, source, or_hub=or_hub)
    trained = check_rows(task, train, origin.train)
    evaluated = check_rows(task, reported, origin.reported)
    data = TaskData(task, train, train.select([]), reported, origin)
    labels = trained.labels or evaluated.labels
    notes = [*_notes(task, trained, origin.train), *_notes(task, evaluated, origin.reported)]
    if family is None:
        return TaskInspection(data, labels, None, None, tuple(notes))
    learnt = encode_split(train, task, family, "train", where=origin.train)
    scored, read = (
        encode_split(reported, task, family, purpose, where=origin.reported)
        for purpose in ("score", task.type.evaluated_as)
    )
    notes += [
        *_altered(task, train, learnt, family, origin.train),
        *_altered(task, reported, scored, family, origin.reported),
        *_nested(task, reported, scored, origin.reported),
    ]
    if alike := describe_same_tokens(task, reported, read):
        notes.append(f"{origin.reported}: {alike}")
    for rows, where in ((train, origin.train), (reported, origin.reported)):
        if found := describe_special_texts(task, rows, family.special_texts):
            notes.append(f"{where}: {found}")
    tokens, answers = _token_lengths(learnt, read), show_answers(task, reported, family)
    return TaskInspection(data, labels, tokens, answers, tuple(notes))


def check_rows(task: Task, rows: Rows, where: str = "") -> CheckedRows:
    """Renders every row, and raises an error for the first that can't be rendered.

    Raises:
        DataError: Names task, row and field.
    """
    renderer = TaskRenderer(task)
    labels, repeated, empty, blank = [], [], [], []
    with placed(where):
        for index, row in enumerate(rows):
            example = renderer.render(row, index)
            labels.append(example.label)
            if len(set(example.options)) < len(example.options):
                repeated.append(row.get(SOURCE_ROW, index))
            if isinstance(example.label, str) and not example.label.strip():
                empty.append(row.get(SOURCE_ROW, index))
            if not all(row[name].strip() for name in task.columns.inputs):
                blank.append(row.get(SOURCE_ROW, index))
    return CheckedRows(labels, repeated, empty, blank)


def _notes(task: Task, rows: CheckedRows, where: str) -> Iterator[str]:
    for found, what in (
        (rows.repeated, "an option twice, only one of which can be right"),
        (rows.empty, "an empty right answer"),
        (rows.blank, "an empty input"),
    ):
        if found:
            yield f"{where}: {_have(len(found))} {what} (the first is row {found[0]}, from 0)"
    seen = set(rows.labels)
    unseen = [name for number, name in enumerate(task.labels) if number not in seen]
    if unseen and rows.labels:
        yield f"{where}: no row has the label {' or '.join(map(repr, unseen))}"
    if task.type.has_own_options and rows.labels and 0 not in rows.labels:
        yield (
            f"{where}: the first option is right in no row; labels that are counted from 1 need "
            "columns.keys"
        )


def _have(rows: int) -> str:
    return "1 row has" if rows == 1 else f"{rows:,} rows have"


def _altered(
    task: Task, rows: Rows, encoded: EncodedSplit, family: EncodesExamples, where: str
) -> Iterator[str]:
    """A note on answers that the tokenizer changes, so that no model can learn or give them."""
    altered = encoded.altered
    if altered.any():
        first = int(altered.argmax())
        row = rows[first]
        found = family.altered_target(task, TaskRenderer(task).render(row, first))
        example = "" if found is None else f": {found[0]!r} becomes {found[1]!r}"
        yield (
            f"{where}: {_have(int(altered.sum()))} an answer that the model's tokenizer doesn't "
            f"give back (the first is row {row.get(SOURCE_ROW, first)}, from 0{example})"
        )


def _nested(task: Task, rows: Rows, scored: EncodedSplit, where: str) -> Iterator[str]:
    """A note on options that begin with another: without the end token, they can never win."""
    if task.type.generates:
        return
    nested = [number for number, row in enumerate(scored.rows) if _are_nested(row["labels"])]
    if nested:
        row = rows[nested[0]].get(SOURCE_ROW, nested[0])
        yield (
            f"{where}: {_have(len(nested))} an option that begins with all tokens of another (the "
            f"first is row {row}, from 0); keep evaluation.scoring.end, without which the longer "
            "one can't have the higher likelihood"
        )


def _token_lengths(*splits: EncodedSplit) -> TokenLengths:
    lengths: np.ndarray[Any, Any] = np.concatenate([split.lengths for split in splits])
    median, high = np.percentile(lengths, [50, 95], method="higher")
    return TokenLengths(
        int(median), int(high), int(lengths.max()), cut=sum(split.cut for split in splits)
    )


def show_answers(task: Task, rows: Rows, family: EncodesExamples) -> AnswerTokens | None:
    """The first row's answers; None without rows, or for a model that answers through a head."""
    if not len(rows):
        return None
    example = TaskRenderer(task).render(rows[0], 0)
    encoded = encode_rows([example], task, family, "score")
    answers = list(_answers(encoded.rows[0]["labels"]))
    if not answers:
        return None
    spelled = tuple(
        tuple(family.tokenizer.convert_ids_to_tokens(answer)) for answer in answers[:_SHOWN]
    )
    prompt = example.prompt
    if example.turns:
        before = encoded.rows[0]["labels"][0].count(IGNORED)
        prompt = family.tokenizer.decode(encoded.rows[0]["input_ids"][0][:before])
    return AnswerTokens(prompt[-_TAIL:], spelled, len(answers) - len(spelled))


def _answers(labels: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    for sequence in labels:
        yield [token for token in sequence if token != IGNORED]


def _are_nested(labels: Sequence[Sequence[int]]) -> bool:
    """Whether an answer is the beginning of another, both without their end tokens."""
    ordered = sorted(answer[:-1] for answer in _answers(labels))  # makes such pairs neighbours
    return any(
        len(one) < len(other) and other[: len(one)] == one for one, other in pairwise(ordered)
    )
