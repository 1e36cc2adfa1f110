"""Two processes share the frozen weights: the run is that of processes with whole models."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

import peml
from peml.config.loading import load_config
from peml.distributed import World, join
from peml.errors import ConfigError, ModelError
from peml.models import ModelSettings, TaskModel, load_backbone, sharding
from peml.run.preparation import Prepared, prepare
from peml.run.weights import check_sharding
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
    "lora": ("bert", METHODS["lora"], {"training": {"precision": "bf16"}}),
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


_LARGE: Row = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
"""Of a llama: 68 MiB."""


def _resident() -> int:
    """Bytes of the process's own memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _measure(folder: Path) -> None:
    world = join()
    small, large = (
        ModelSettings(name=str(folder / n), sharding="fsdp") for n in ("llama", "large")
    )
    load_backbone(small, world=world)  # what libraries take isn't the model's
    before = _resident()
    model = load_backbone(large, world=world).model
    gc.collect()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert _resident() - before <= 0.7 * size


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_freed_weights_go_back_to_the_system(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path / "llama")
    save_tiny_model("llama", tmp_path / "large", **_LARGE)
    for code, log in launch([partial(_measure, tmp_path)] * 2, tmp_path):
        assert code == 0, log


def test_one_process_and_whole_weights_are_refused(toys: Path, tmp_path: Path) -> None:
    config = _config(toys, "lora", 1, "fsdp")
    with pytest.raises(ModelError, match="there is one process"):
        peml.fit(config, tmp_path / "alone")
    dora = toy_config(toys, "causal", {"name": "dora", "r": 4}, model={"sharding": "fsdp"})
    work = partial(_fit_refused, dora, tmp_path / "dora", "dora reads whole weights")
    for code, log in launch([work] * 2, tmp_path):
        assert code == 0, log


_PCGRAD: Row = {"training": {"balancing": {"strategy": "pcgrad"}}}
_REFUSED: dict[str, tuple[str, Row, Row]] = {
    "full trains the model's own weights": ("encoder", {"name": "full"}, {}),
    "pcgrad makes a backward pass for each task": ("encoder", METHODS["lora"], _PCGRAD),
    "the family seq2seq calls parts": ("seq2seq", METHODS["lora"], {}),
    "prompt-tuning reads the model's embeddings": (
        "causal",
        {"name": "prompt-tuning", "length": 4},
        {},
    ),
    "lora+context computes contexts": (
        "causal",
        {"name": "lora+context", "context": {"shots": 1}},
        {},
    ),
}
"""Words of the message: family, method and further sections of the config."""


def _prepared(toys: Path, family: str, method: Row, sections: Row) -> Prepared:
    config = toy_config(toys, family, method, **(sections | {"model": {"sharding": "fsdp"}}))
    return prepare(load_config(config))


def _refused_for(prepared: Prepared, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_sharding(prepared)
    assert said in refused.value.problem
    assert ";" not in refused.value.problem  # for that reason alone


@pytest.mark.parametrize("said", _REFUSED)
def test_what_sharing_does_not_go_with_is_refused(said: str, distinct_toys: Path) -> None:
    _refused_for(_prepared(distinct_toys, *_REFUSED[said]), said)


def test_neither_quantised_weights_nor_compiled_blocks_are_shared(toys: Path) -> None:
    """Whether or not this machine can quantise and compile, which `prepare` asks first."""
    prepared = _prepared(toys, "causal", METHODS["lora"], {})
    check_sharding(prepared)
    packed = prepared.precision.model_copy(update={"quantization": "nf4"})
    _refused_for(replace(prepared, precision=packed), "the frozen weights are quantised")
    training = prepared.config.training.model_copy(update={"compile": True})
    compiled = prepared.config.model_copy(update={"training": training})
    _refused_for(replace(prepared, config=compiled), "training.compile is true")


def test_a_transformers_that_shards_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older:
        """Its `DistributedConfig` has no plan for FSDP."""

        def __init__(self, tp_size: int | None = None) -> None: ...

    monkeypatch.setattr(sharding, "DistributedConfig", Older)
    settings = ModelSettings(name=str(save_tiny_model("bert", tmp_path)), sharding="fsdp")
    with pytest.raises(ModelError, match="installed Transformers can't shard") as refused:
        load_backbone(settings, world=World(0, 2))
    assert "upgrade transformers" in str(refused.value)
