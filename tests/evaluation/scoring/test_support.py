"""Whether a decoder can share contexts is tested on the model itself."""

from __future__ import annotations

import pytest

from peml.evaluation.scoring import support
from peml.evaluation.scoring.support import sharing_problem
from peml.injection.inject import attach_prefix
from peml.models import TaskModel
from peml.testing import tiny_task_model


def test_a_model_is_tested_once_and_again_when_a_prefix_is_attached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tested: list[TaskModel] = []
    monkeypatch.setattr(support, "_test_sharing", lambda base: tested.append(base))
    model = tiny_task_model("llama")
    for _ in range(2):
        assert sharing_problem(model, 20) is None
    assert len(tested) == 1
    attach_prefix(model.backbone)
    assert sharing_problem(model, 20) is None
    assert len(tested) == 2


def test_a_model_that_takes_no_mask_per_token_computes_options_alone() -> None:
    model = tiny_task_model("falcon", alibi=True)
    why = sharing_problem(model, 20)
    assert why is not None
    assert "a test failed" in why
