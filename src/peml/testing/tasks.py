"""Tiny tasks, and models and batches for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from peml.data import Collator, TaskBatch
from peml.models import Backbone, Family, ModelSettings, TaskModel
from peml.models.families import FAMILIES, EncodedSequence
from peml.tasks import Shots, Task, TaskRenderer
from peml.testing.models import TINY_FAMILIES, tiny_model, tiny_tokenizer

Row = dict[str, Any]
"""A row of a task, by column."""


def _task(name: str, kind: str, inputs: list[str], template: str, **fields: Any) -> Task:
    return Task.model_validate(
        {
            "name": name,
            "type": kind,
            "source": {"path": "data"},
            "columns": {"inputs": inputs, "label": "label"},
            "template": template,
            "metrics": ["accuracy"],
            **fields,
        }
    )


_PAIR = ["first", "second"]
_SCALE = {"low": 0, "high": 2, "step": 1}

TINY_TASKS: tuple[Task, ...] = (
    _task("mood", "classification", ["text"], "{{ text }} It is", labels=["bad", "good"]),
    _task(
        "same",
        "pair-classification",
        _PAIR,
        "{{ first }} and {{ second }} are",
        labels=["different", "similar", "neutral"],
    ),
    _task(
        "closeness",
        "regression",
        _PAIR,
        "{{ first }} / {{ second }} score",
        scale=_SCALE,
        metrics=["pearson"],
    ),
)
"""Three tasks of different types that every family can do."""

TINY_ROWS: tuple[tuple[int, Row], ...] = (
    (0, {"text": "the film was good", "label": 1}),
    (2, {"first": "a man", "second": "a person is moving", "label": 1.0}),
    (1, {"first": "the lazy dog", "second": "the red ball", "label": 2}),
    (0, {"text": "bad", "label": 0}),
    (1, {"first": "yes", "second": "the answer is yes", "label": 0}),
)
"""Rows of `TINY_TASKS` in mixed order: (task id, row)."""


def tasks_with_contexts() -> tuple[Task, ...]:
    """`TINY_TASKS`, each with one solved row as its context."""
    solved = [
        TaskRenderer(TINY_TASKS[number]).render_solved(row, 0) for number, row in TINY_ROWS[:3]
    ]
    by_task = {number: text for (number, _), text in zip(TINY_ROWS, solved, strict=False)}
    return tuple(
        task.model_copy(update={"context": True, "shots": Shots(examples=(by_task[number],))})
        for number, task in enumerate(TINY_TASKS)
    )


def tiny_family(
    name: str, *, max_length: int = 64, pooling: str = "mean", family: str | None = None
) -> Family:
    """The family of a tiny model, with the tiny tokenizer.

    `name` is one of ``TINY_FAMILIES``; `family` is the registered family that reads for it, by
    default that of the model's kind.
    """
    kind = TINY_FAMILIES[name].kind
    made = FAMILIES.load(family or kind, "")
    return made(tiny_tokenizer(kind), max_length=max_length, pooling=pooling)


def tiny_task_model(
    name: str,
    tasks: Sequence[Task] = TINY_TASKS,
    *,
    pooling: str = "mean",
    seed: int = 0,
    family: str | None = None,
    **config: Any,
) -> TaskModel:
    """A frozen tiny model that answers tasks, as a run would load it.

    `name` is one of ``TINY_FAMILIES``; `family` is the registered family that reads for it, by
    default that of the model's kind. `config` replaces values of the tiny model's config.
    """
    model = tiny_model(name, seed=seed, **config).requires_grad_(False)
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # as `load_backbone` does
    reads = tiny_family(name, pooling=pooling, family=family)
    return TaskModel(Backbone(model, reads, ModelSettings(name=name)), tasks, seed=seed)


def batch_of(
    model: TaskModel,
    rows: Sequence[tuple[int, Row]] = TINY_ROWS,
    purpose: Any = "train",
    *,
    left: bool = False,
    packs: bool = False,
) -> TaskBatch:
    """A batch of raw rows that may mix tasks.

    `rows` are (task id, row); `purpose` is ``train``, ``score`` or ``generate``. For generation, a
    decoder needs padding on the `left`; with `packs`, the model reads the rows as one sequence.
    """
    renderers = {task_id: TaskRenderer(model.tasks[task_id]) for task_id, _ in rows}
    encoded = []
    for number, (task_id, row) in enumerate(rows):
        example = renderers[task_id].render(row, number)
        encoded.append((task_id, model.family.encode(model.tasks[task_id], example, purpose)))
    return collate(model.family, encoded, left=left, packs=packs)


def collate(
    family: Family,
    encoded: Sequence[tuple[int, list[EncodedSequence]]],
    *,
    left: bool = False,
    packs: bool = False,
) -> TaskBatch:
    """A batch of encoded examples: (task id, sequences of one example), in that order."""
    columns: dict[str, list[Any]] = {
        "input_ids": [[s.input_ids for s in sequences] for _, sequences in encoded],
        "token_type_ids": [
            [s.token_type_ids for s in sequences if s.token_type_ids] for _, sequences in encoded
        ],
        "labels": [[s.labels for s in sequences if s.labels] for _, sequences in encoded],
        "targets": [[s.target for s in sequences] for _, sequences in encoded],
    }
    collator = Collator(family.tokenizer.pad_token_id, left=left, packs=packs)
    return collator(columns, [task for task, _ in encoded], np.arange(len(encoded)))
