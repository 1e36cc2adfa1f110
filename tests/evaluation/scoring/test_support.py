"""Whether a decoder can share contexts is tested on the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from peml.evaluation.scoring import support
from peml.evaluation.scoring.options import score_requests
from peml.evaluation.scoring.requests import score_alone
from peml.evaluation.scoring.support import sharing_problem
from peml.injection.inject import attach_prefix
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing import tiny_task_model
from peml.testing.models import VOCABULARY, tiny_tokenizer
from tests.evaluation.scoring.requests import few_shot
from tests.tasks.examples import sentiment


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


def test_local_layers_that_count_the_tokens_between_are_scored_alone(tmp_path: Path) -> None:
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        window_size=40,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    base = TaskModel(load_backbone(ModelSettings(name=str(tmp_path))), (sentiment(),))
    requests = few_shot()  # each is shorter than the window, all of them together aren't
    with pytest.warns(UserWarning, match="other kinds: local"):
        found = score_requests(base, requests, tokens=400)
    torch.testing.assert_close(found, score_alone(base, requests, tokens=1), atol=1e-4, rtol=0)
