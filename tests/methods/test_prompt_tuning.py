"""Prompt tuning: where the vectors start, what they need, and what stays of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor

from peml.errors import ModelError
from peml.export import load_model, save_model
from peml.files import read_tensors
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.prefix.settings import PromptTuningSettings
from peml.methods.registry import build_method
from peml.methods.shape import read_shape
from peml.testing import MethodSuite
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model
from tests.tasks.examples import generation


class TestPromptTuning(MethodSuite):
    settings = PromptTuningSettings(length=3)
    families = ("bert", "llama", "t5", "gpt2", "bart")
    identity_at_start = False


class TestPromptTuningDrawn(MethodSuite):
    settings = PromptTuningSettings(length=3, start="normal")
    families = ("electra",)
    identity_at_start = False


def attach(name: str, *, seed: int = 0, **settings: Any) -> AttachedModel:
    model = tiny_task_model(name, TINY_TASKS)
    context = AttachContext(seed, calibrate=lambda: None)
    return build_method(PromptTuningSettings(**settings)).attach(model, context).eval()


def vectors(model: AttachedModel) -> Tensor:
    (group, *_) = model.groups()
    assert group.name == "prompt"
    (parameter,) = group.parameters
    return parameter.detach()


@pytest.mark.parametrize("name", ["bert", "gemma2", "electra"])
def test_it_starts_at_embeddings_of_ordinary_tokens(name: str) -> None:
    model = attach(name, length=40)
    embed = model.base.backbone.get_input_embeddings()
    tokenizer = model.base.family.tokenizer
    table = embed(torch.arange(len(tokenizer))).detach()
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(vectors(model), table, compute_mode=exact)
    tokens = distance.argmin(1).tolist()
    assert distance.min(1).values.max() < 1e-3
    assert len(set(tokens)) == 40
    assert not set(tokens) & set(tokenizer.all_special_ids)


def test_a_prompt_longer_than_the_vocabulary_starts_over() -> None:
    made = vectors(attach("bert", length=400))
    assert len(made) == 400
    assert made.unique(dim=0).shape[0] > 300


def test_drawn_from_a_normal_distribution_it_is_far_from_embeddings() -> None:
    drawn = vectors(attach("bert", length=40, start="normal"))
    assert 0.9 < drawn.std() < 1.1


def test_the_seed_decides() -> None:
    first, again, other = (vectors(attach("bert", seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_room_for_it_is_one_clear_message_before_training() -> None:
    model = tiny_task_model("bert", TINY_TASKS)
    model.family.positions = 160
    method = build_method(PromptTuningSettings(length=97))
    with pytest.raises(ModelError, match="97 vectors and 64 tokens"):
        method.attach(model, AttachContext(0, lambda: None))


def test_texts_are_refused_where_the_model_generates_from_ids_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, context = tiny_task_model("llama", (generation(),)), AttachContext(0, lambda: None)
    method = build_method(PromptTuningSettings(length=4))
    method.attach(model, context)
    monkeypatch.setattr(model.backbone, "prepare_inputs_for_generation", lambda input_ids, **_: {})
    with pytest.raises(ModelError, match="can't generate texts behind a prompt"):
        method.attach(model, context)


def test_a_budget_does_not_outgrow_the_positions() -> None:
    model = tiny_task_model("bert", TINY_TASKS)
    method = build_method(PromptTuningSettings())
    resized = method.resized(read_shape(model), 32 * 500)
    assert isinstance(resized, PromptTuningSettings)
    assert resized.length == 500
    model.family.positions = 160
    resized = method.resized(read_shape(model), 32 * 500)
    assert isinstance(resized, PromptTuningSettings)
    assert resized.length == 96


def test_decay_does_not_pull_the_vectors_to_zero() -> None:
    assert attach("bert").groups()[0].options == {"weight_decay": 0.0}


@pytest.mark.parametrize(("name", "kind"), [("llama", "CAUSAL_LM"), ("gpt2", "CAUSAL_LM")])
def test_it_equals_peft(name: str, kind: str) -> None:
    model = attach(name, length=6)
    batch = batch_of(model.base)
    with torch.no_grad():
        losses = model(batch).losses
        other = tiny_task_model(name, TINY_TASKS).backbone
        config = PromptTuningConfig(task_type=kind, num_virtual_tokens=6)
        reference: Any = get_peft_model(other, config)
        reference.prompt_encoder["default"].embedding.weight.copy_(vectors(model))
        logits = reference(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        logits = logits[:, 6:-1]
        assert batch.labels is not None
        nll = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch.labels[:, 1:], reduction="none"
        )
        expected = nll.sum(1) / (batch.labels[:, 1:] >= 0).sum(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_final_model_keeps_it_in_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    model = attach(name, length=5)
    save_model(model, tmp_path / "model", PromptTuningSettings(length=5))
    assert not (tmp_path / "model" / "adapter.safetensors").exists()
    kept = read_tensors(tmp_path / "model" / "prompt.safetensors")["prompt"]
    assert torch.equal(kept, vectors(model))
    loaded = load_model(tmp_path / "model")
    assert loaded.prompt.vectors is not None
    assert torch.equal(loaded.prompt.vectors, kept)
    assert not loaded.prompt.vectors.requires_grad
    # The base model itself is not touched.
    before = dict(tiny_task_model(name, TINY_TASKS).backbone.named_parameters())
    after = dict(loaded.backbone.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in after)
