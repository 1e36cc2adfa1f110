"""Decoders that also read images (Gemma 3 from 4B on) are used as language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from peml.evaluation.scoring.support import sharing_problem
from peml.methods.targets import read_layers
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing.models import VOCABULARY, tiny_tokenizer
from tests.tasks.examples import sentiment

_TEXTS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"],
}
_IMAGES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture
def model(tmp_path: Path) -> TaskModel:
    config = Gemma3Config(text_config=_TEXTS, vision_config=_IMAGES, mm_tokens_per_image=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    return TaskModel(load_backbone(ModelSettings(name=str(tmp_path))), (sentiment(),))


def test_the_text_config_says_what_scoring_needs(model: TaskModel) -> None:
    assert sharing_problem(model, 12) is None
    why = sharing_problem(model, 20)
    assert why is not None
    assert "window of 16" in why


def test_updates_are_put_on_layers_that_texts_go_through(model: TaskModel) -> None:
    layers = read_layers(model.backbone)
    expected = 2 * 7 + 1  # of the blocks, and the output layer
    assert sum(layer.kind != "embedding" for layer in layers.linears) == expected
    assert not any("vision" in name for name in (*layers.others, *layers.fused))
    assert all("language_model" in one.name for one in layers.select(["q_proj"]))
