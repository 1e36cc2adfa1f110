"""Warns about right answers that a model can't give: rows all alike, texts too long, and so on."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

from peml.data import TaskData
from peml.data.batch import IGNORED
from peml.data.encoding import EncodedSplit, encode_split
from peml.data.odd_tokens import describe_same_tokens, describe_special_texts
from peml.evaluation import EvaluationSettings, GoldSplit
from peml.models import Family
from peml.models.families.stopping import cut_text
from peml.tasks import SOURCE_ROW, Task


def warn_unreachable(
    data: Sequence[TaskData],
    reported: Sequence[GoldSplit],
    family: Family,
    settings: EvaluationSettings,
    *,
    learns: bool,
) -> None:
    """Warns about reported rows that a model will get wrong whatever it learns, if it `learns`."""
    for split in reported:
        item = data[split.task_id]
        task, where = item.task, item.origin.reported
        for said in (
            describe_same_tokens(task, item.reported, split.encoded),
            describe_special_texts(task, item.reported, family.special_texts),
        ):
            if said:
                warnings.warn(f"Task {task.name!r}: {where}: {said}", stacklevel=2)
        found: Iterable[tuple[list[int], str]] = _unseen(item, split.gold) if learns else ()
        if task.type.generates:
            encoded = encode_split(item.reported, task, family, "score", where=where)
            found = _not_generated(task, split.gold, encoded, settings.longest(task))
        for rows, why in found:
            first = item.reported[rows[0]].get(SOURCE_ROW, rows[0])
            warnings.warn(
                f"Task {task.name!r}: the model can't give the right answers of {len(rows):,} of "
                f"{len(split.gold):,} rows of {where} (the first is row {first}, from 0): {why}",
                stacklevel=2,
            )


def _unseen(item: TaskData, gold: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    task = item.task
    if not task.type.has_labels or not len(item.train):
        return
    seen = set(item.train.column(task.columns.label))
    unseen = [label for label in task.labels if label not in seen]
    rows = [number for number, label in enumerate(gold) if task.labels[label] in unseen]
    if rows:
        yield rows, f"no train row has the label {' or '.join(map(repr, unseen))}"


def _not_generated(
    task: Task, gold: Sequence[str], encoded: EncodedSplit, most: int
) -> Iterator[tuple[list[int], str]]:
    answers = (labels for (labels,) in encoded.rows.column("labels"))
    # the token that ends an answer needs no room
    sizes = [sum(token != IGNORED for token in labels) - 1 for labels in answers]
    stopped = [n for n, text in enumerate(gold) if cut_text(text, task.stop) != text.strip()]
    for rows, why in (
        (
            [n for n, size in enumerate(sizes) if size > most],
            f"a text ends after {most} tokens; set the task's max_new_tokens to {max(sizes)}, or "
            "evaluation.max_new_tokens",
        ),
        (
            stopped,
            "they contain a stop string, before which a text is cut; correct the task's stop",
        ),
        (
            encoded.altered.nonzero()[0].tolist(),
            "the tokenizer gives them back changed; `peml tasks check --model` shows one",
        ),
    ):
        if rows:
            yield rows, why
