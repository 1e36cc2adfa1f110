"""`weights: balanced`: rare labels count more in training, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peml.data import TaskData
from peml.data.batching import Collator
from peml.data.encoding import EncodedSplit
from peml.data.rows import Rows
from peml.models import TaskModel
from peml.run.encoding import SplitEncoder
from peml.tasks import SOURCE_ROW, Task
from tests.models.tasks import tiny_task_model
from tests.tasks.examples import sentiment

ROWS = Rows.from_list(
    [
        {"sentence": f"the dog {number}", "label": int(number == 0), SOURCE_ROW: number}
        for number in range(8)
    ]
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path))


def _encoded(model: TaskModel, task: Task, purpose: str = "train") -> EncodedSplit:
    encoder = SplitEncoder(model.settings, model.family)
    return encoder.encode(TaskData(task, ROWS, ROWS, ROWS), ROWS, purpose)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_each_label_counts_the_same_in_the_loss(kind: str) -> None:
    task = sentiment(weights="balanced")
    model = tiny_task_model(kind, (task,))
    split, plain = _encoded(model, task), _encoded(model, sentiment())
    positions = torch.arange(8).numpy()
    collate = Collator(model.family.tokenizer.pad_token_id)
    weighed, alike = (
        model(collate(each.rows.read(positions), [0] * 8, positions)) for each in (split, plain)
    )
    expected = torch.tensor([8 / (2 * 1)] + [8 / (2 * 7)] * 7)
    torch.testing.assert_close(weighed.losses, alike.losses * expected)
    torch.testing.assert_close(weighed.loss, (alike.losses[0] + alike.losses[1:].mean()) / 2)


def test_scores_are_not_weighed() -> None:
    task = sentiment(weights="balanced")
    split = _encoded(tiny_task_model("bert", (task,)), task, "score")
    assert set(split.rows.column("weight")) == {1.0}


def test_a_task_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="weights: a multiple-choice task has no labels"):
        Task.model_validate(
            sentiment().model_dump()
            | {"type": "multiple-choice", "labels": [], "weights": "balanced"}
            | {"columns": {"inputs": ["sentence"], "choices": "options", "label": "label"}}
        )
