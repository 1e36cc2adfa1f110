"""Models whose rotary embeddings change with the longest row of a batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.errors import ModelError
from peml.evaluation.scoring.support import sharing_problem
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.models.rotary import rotary_limit
from peml.testing.models import save_tiny_model, tiny_model
from tests.tasks.examples import sentiment

LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 16,
    "factor": 16.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def _settings(folder: Path, rope: dict[str, Any], **settings: Any) -> ModelSettings:
    declared = 256 if rope is LONG else 16
    save_tiny_model("llama", folder, rope_parameters=rope, max_position_embeddings=declared)
    return ModelSettings(name=str(folder), **settings)


@torch.no_grad()
def test_a_longer_row_in_its_batch_changes_a_row_of_such_a_model() -> None:
    model = tiny_model("llama", rope_parameters=LONG)
    ids, mask = torch.arange(40).view(2, 20) + 9, torch.ones(2, 20, dtype=torch.long)
    mask[0, 12:] = 0
    alone = model(input_ids=ids[:1, :12]).logits[0]
    beside = model(input_ids=ids, attention_mask=mask).logits[0, :12]
    assert not torch.allclose(alone, beside, atol=0.01)


def test_rows_beyond_the_limit_are_warned_of_and_scored_one_by_one(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="longrope.* more than 16.*model.max_length: 16"):
        backbone = load_backbone(_settings(tmp_path, LONG))
    assert rotary_limit(backbone.model) == 16
    base = TaskModel(backbone, [sentiment()])
    assert "beyond 16 tokens" in (sharing_problem(base, 17) or "")
    assert sharing_problem(base, 16) is None


def test_rows_within_the_limit_are_as_in_any_model(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(_settings(tmp_path / "long", LONG, max_length=16))
        load_backbone(_settings(tmp_path / "dynamic", DYNAMIC))  # its declared length
    assert rotary_limit(tiny_model("gemma2")) is None


def test_embeddings_that_remember_earlier_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"dynamic.* the batches before it(.|\n)*max_length: 16"):
        load_backbone(_settings(tmp_path, DYNAMIC, max_length=32))
