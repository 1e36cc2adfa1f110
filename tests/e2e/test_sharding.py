"""Two processes share the frozen weights: the run is that of processes with whole models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

import peml
from peml.config import load_config
from peml.distributed import join
from peml.errors import ConfigError, ModelError
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.run.preparation import prepare
from peml.run.sharding import check_sharding
from peml.tasks import load_suite
from peml.testing.models import save_tiny_model
from tests.e2e.ranks import CAN_SHARD, launch, run_files
from tests.e2e.toy import METHODS, Row, toy_config

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not CAN_SHARD, reason="Transformers can't shard models"),
]

_RUNS: dict[str, tuple[str, Row, Row]] = {
    "peml": ("llama", METHODS["peml"], {"model": {"gradient_checkpointing": True}}),
    "mtl-lora": ("gemma", {"name": "mtl-lora", "r": 4, "alpha": 8, "learning_rate": 0.01}, {}),
    "lora": (
        "bert",
        METHODS["lora"],
        {"batches": {"mixing": {"strategy": "adaptive"}}, "training": {"precision": "bf16"}},
    ),
}
"""Name: tiny model, method and further sections of its config; gemma's output layer is tied."""
_MODELS: dict[str, Row] = {
    "bert": {},
    "electra": {},
    "gemma": {},
    "gpt2": {},
    "gpt-neox": {},
    "llama": {"vocab_size": 385},
    "opt": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3-moe": {},
}
"""Tiny model: what is changed in its config."""


def _config(toys: Path, name: str, batches: int, sharding: str) -> Path:
    tiny, method, sections = _RUNS[name]
    training = {"epochs": 1, "evaluate_every": 5, "log_every": 1, "accumulation": batches}
    training |= sections.get("training", {})
    model = sections.get("model", {}) | {"sharding": sharding}
    sections = sections | {"training": training, "model": model}
    family = "encoder" if tiny == "bert" else "causal"
    return toy_config(toys, family, method, tiny=tiny, **sections)


def _fit_all(configs: dict[str, Path], folder: Path) -> None:
    for name, config in configs.items():
        peml.fit(config, folder / name)


def test_they_train_and_evaluate_as_with_whole_models(toys: Path, tmp_path: Path) -> None:
    """Search, checkpointing, routed layers, trees of options, generation, heads, bf16."""
    configs = {name: _config(toys, name, 1, "fsdp") for name in _RUNS}
    for code, log in launch([partial(_fit_all, configs, tmp_path / "two")] * 2, tmp_path):
        assert code == 0, log
    for name in _RUNS:
        peml.fit(_config(toys, name, 2, "none"), tmp_path / "one" / name)
        assert run_files(tmp_path / "two" / name) == run_files(tmp_path / "one" / name), name


def _fit_refused(config: Path, folder: Path, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        peml.fit(config, folder)


def _share_weights(folder: Path) -> None:
    """Loads models, and lets each process make passes that the other doesn't make."""
    world = join()
    task = load_suite("demo").tasks[:1]
    for name in _MODELS:
        settings = ModelSettings(name=str(folder / name), sharding="fsdp")
        base = TaskModel(load_backbone(settings, world=world), task)
        plain = load_backbone(settings.model_copy(update={"sharding": "none"})).model
        parts: dict[str, Any] = dict(base.backbone.named_parameters())
        whole = dict(plain.named_parameters())
        assert parts.keys() == whole.keys(), name
        for path, part in parts.items():
            assert isinstance(part, DTensor), path
            assert torch.equal(part.full_tensor(), whole[path]), path
        held = sum(part.to_local().numel() for part in parts.values())
        assert held <= 0.52 * sum(p.numel() for p in whole.values()), name
        ids = torch.arange(6)[None]
        with torch.no_grad():
            expected = plain(input_ids=ids)[0]
            for passes in (2 * world.rank, 1 - world.rank):
                with base.divided():
                    for _ in range(passes):
                        assert torch.equal(base.backbone(input_ids=ids)[0], expected), name
            assert torch.equal(base.backbone(input_ids=ids)[0], expected), name
        assert all(isinstance(p, DTensor) for p in base.backbone.parameters()), name  # again


def test_each_holds_half_of_the_weights(tmp_path: Path) -> None:
    """Encoders and decoders, embeddings that are the output layer's too, experts."""
    for name in _MODELS:
        save_tiny_model(name, tmp_path / name, **_MODELS[name])
    for code, log in launch([partial(_share_weights, tmp_path)] * 2, tmp_path):
        assert code == 0, log


def test_what_sharing_does_not_go_with_is_refused(toys: Path, tmp_path: Path) -> None:
    config = _config(toys, "lora", 1, "fsdp")
    with pytest.raises(ModelError, match="there is one process"):
        peml.fit(config, tmp_path / "alone")
    sharded = {"sharding": "fsdp"}
    training: Any = {"balancing": {"strategy": "pcgrad"}}
    full = toy_config(toys, "encoder", {"name": "full"}, model=sharded, training=training)
    prompt: Row = {"name": "prompt-tuning", "length": 4}
    seq2seq = toy_config(toys, "seq2seq", prompt, model=sharded)
    for path, *said in (
        (full, "full trains the model's own weights", "a backward pass for each task"),
        (seq2seq, "family seq2seq calls parts", "prompt-tuning reads the model's embeddings"),
    ):
        with pytest.raises(ConfigError) as refused:
            check_sharding(prepare(load_config(path)))
        for words in said:
            assert words in refused.value.problem
    dora = toy_config(toys, "causal", {"name": "dora", "r": 4}, model=sharded)
    work = partial(_fit_refused, dora, tmp_path / "dora", "dora reads whole weights")
    for code, log in launch([work] * 2, tmp_path):
        assert code == 0, log
