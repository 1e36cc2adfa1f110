"""Answers to rows of several tasks at once, as a service gets them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peml.data.batch import TaskBatch
from peml.data.batching import Collator
from peml.data.planning import plan_batches
from peml.evaluation.scoring.options import score_rows
from peml.evaluation.settings import EvaluationSettings
from peml.models import TaskModel, TextFamily
from peml.models.limits import pass_limits

_PADDING = 1.5
"""Rows share a forward pass while padding makes it at most this many times as long."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row that is encoded for scoring.

    `columns` are those of `peml.data.encoding.encode_row`.
    """

    task_id: int
    columns: dict[str, Any]


@torch.no_grad()
def score_mixed(
    base: TaskModel,
    rows: Sequence[EncodedRow],
    settings: EvaluationSettings,
    *,
    packs: bool = False,
) -> list[Tensor]:
    """Scores of each row's options, (options,), or its score, (); on the CPU, tasks mixed.

    The same as `predict_split` computes for each task. They may be NaN or infinite. With `packs`
    the model was prepared to read packed rows (`peml.injection.enable_packing`); an encoder's rows
    are then computed without padding.
    """
    if not rows:
        return []
    family = base.family
    if not isinstance(family, TextFamily):
        return _score_heads(base, rows, settings.tokens, packs)
    encoded = [(row.columns["input_ids"], row.columns["labels"]) for row in rows]
    ids = [row.task_id for row in rows]
    scores = score_rows(base, encoded, ids, settings.scoring, settings.tokens)
    return [
        family.answer(each[None], base.tasks[task_id])[0].cpu()
        for each, task_id in zip(scores, ids, strict=True)
    ]


def _score_heads(
    base: TaskModel, rows: Sequence[EncodedRow], tokens: int, packs: bool
) -> list[Tensor]:
    scores: list[Tensor] = [torch.empty(0)] * len(rows)
    collate = Collator(base.family.tokenizer.pad_token_id, packs=packs)
    for numbers in _batches(rows, min(tokens, pass_limits(base.device).tokens)):
        columns = {
            name: [rows[number].columns[name] for number in numbers]
            for name in ("input_ids", "token_type_ids", "labels", "targets")
        }
        batch = collate(columns, [rows[n].task_id for n in numbers], numbers).to(base.device)
        output = base(batch)
        for task_id in batch.known.task_rows:
            alone, places = _of_task(batch, task_id)
            own = replace(output, scores=output.scores[batch.task_ids == task_id])
            answers = base.predict(own, alone, task_id).float().cpu()
            choice = base.tasks[task_id].type.has_own_options
            counts = torch.bincount(alone.groups, minlength=alone.examples).tolist()
            for place, answer, count in zip(places, answers, counts, strict=True):
                scores[numbers[place]] = answer[:count] if choice else answer
    return scores


def _of_task(batch: TaskBatch, task_id: int) -> tuple[TaskBatch, list[int]]:
    """The examples of one task as a batch of their own, and their places in the whole one."""
    sequences = batch.task_ids == task_id
    places, groups = batch.groups[sequences].unique_consecutive(return_inverse=True)
    alone = replace(
        batch, groups=groups, rows=batch.rows[places], task_ids=batch.task_ids[sequences]
    )
    return alone, places.tolist()


def _batches(rows: Sequence[EncodedRow], tokens: int) -> Iterator[Any]:
    """Numbers of rows that are computed together: of similar length, within the budget."""
    lengths = np.array([row.columns["length"] for row in rows], dtype=np.int32)
    sequences = np.array([row.columns["sequences"] for row in rows], dtype=np.int32)
    for batch in plan_batches(lengths, sequences, tokens):
        begin = 0
        for stop in range(1, len(batch) + 1):
            if stop < len(batch):
                part = batch[begin : stop + 1]
                real = int((lengths[part] * sequences[part]).sum())
                padded = int(lengths[batch[begin]]) * int(sequences[part].sum())
                if padded <= _PADDING * real:
                    continue
            yield batch[begin:stop]
            begin = stop
