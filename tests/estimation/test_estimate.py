"""Estimates of tiny runs, against what attaching and training them really takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peml.config.loading import parse_config
from peml.config.model import RunConfig
from peml.errors import ConfigError
from peml.estimation import Device, Estimate, estimate, read_device
from peml.estimation.tracker import Tracker
from peml.estimation.workload import read_workload
from peml.models import load_backbone
from peml.models.limits import PASS_LIMITS, PassLimits
from peml.run.preparation import prepare
from peml.run.training import attach
from peml.testing import save_tiny_model
from tests.data.rows import write_jsonl

CPU = Device("cpu", "a CPU", "cpu", 10**9, fp32=1e9, bf16=2e9, overhead=5)
MOODS = ("bad", "good")
TASK = """
name: reviews
description: Is the film good?
source: {path: reviews}
metrics: [accuracy]
type: classification
columns: {inputs: [text], label: mood}
labels: [bad, good]
template: "{{text}} Good?"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of a task, and its definition."""
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    (tmp_path / "reviews.yaml").write_text(TASK, encoding="utf-8")
    for split, count in (("train", 96), ("validation", 24)):
        rows = [
            {
                "text": f"{split} {n} the film was good " * (1 + n % 3) + "so " * (n % 7),
                "mood": ("bad", "good")[n % 2],
            }
            for n in range(count)
        ]
        write_jsonl(tmp_path / "reviews" / f"{split}.jsonl", rows)
    return tmp_path


def config(folder: Path, family: str = "bert", **sections: Any) -> RunConfig:
    model = folder / family
    if not model.is_dir():
        save_tiny_model(family, model)
    raw = {
        "tasks": {"files": [str(folder / "reviews.yaml")]},
        "batches": {"tokens": 512, "rows": 16},
        "training": {"precision": "fp32", "epochs": 2.0},
        "method": {"name": "lora", "r": 2},
        **sections,
    }
    raw["model"] = {"name": str(model), "dtype": "float32", **sections.get("model", {})}
    return parse_config(raw)


def estimated(folder: Path, family: str = "bert", **sections: Any) -> Estimate:
    return estimate(config(folder, family, **sections), CPU)


def peak_with_values(settings: RunConfig) -> int:
    """Bytes at the peak of a real training step on the largest batch, optimiser left out."""
    prepared = prepare(settings)
    stream = prepared.stream
    batch = stream.fetch(stream.plan(0)[int(np.argmax(stream.padded(0)))])
    with Tracker() as tracker:
        backbone = load_backbone(prepared.config.model, prepared.family)
        for parameter in backbone.model.parameters():
            parameter.data = parameter.detach().clone()  # made under the tracker
        model = attach(prepared, torch.device("cpu"), None, backbone).train()
        if model.search is not None:
            model.search.begin(prepared.steps.search)
        tracker.restart()
        model(batch).loss.backward()
        return int(tracker.peak)


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "r": 2},
    "full": {"name": "full"},
    "mtl-lora": {"name": "mtl-lora", "r": 2},
    "peml": {"name": "peml", "lora": {"r": 2}, "prefix": {"length": [2, 4], "width": 8}},
    "context": {"name": "lora+context", "lora": {"r": 2}, "context": {"shots": 2}},
}
PACKED = {"tokens": 512, "rows": 16, "packing": True}


@pytest.mark.parametrize(
    ("family", "method", "again", "batches"),
    [
        ("bert", "full", False, {}),
        ("bert", "peml", True, {}),
        ("bert", "peml", False, {"batches": PACKED}),
        ("llama", "lora", True, {}),
        ("llama", "context", False, {}),
        ("t5", "mtl-lora", False, {}),
    ],
)
def test_memory_is_that_of_a_step_with_values(
    folder: Path, family: str, method: str, again: bool, batches: dict[str, Any]
) -> None:
    sections = {"method": METHODS[method], "model": {"gradient_checkpointing": again}, **batches}
    memory = estimated(folder, family, **sections).training
    assert memory is not None
    counted = memory.total - memory.optimizer
    assert counted == pytest.approx(peak_with_values(config(folder, family, **sections)), rel=0.05)


def test_parts_are_of_the_announced_size(folder: Path) -> None:
    found = estimated(folder)
    layers = 2 * (4 * (32 + 32) + (32 + 48) + (48 + 32))
    assert found.trainable_parameters == {"lora": 2 * layers, "heads": 2 * (32 + 1)}
    assert found.training is not None
    trained = 4 * sum(found.trainable_parameters.values())
    assert (found.training.trained, found.training.optimizer) == (trained, 2 * trained)
    assert found.training.weights == pytest.approx(4 * found.parameters, rel=0.02)
    assert found.evaluation is not None
    assert (found.evaluation.gradients, found.evaluation.optimizer) == (0, 0)
    assert found.needed == 5 + max(found.training.total, found.evaluation.total)


def test_checkpointing_saves_memory_and_computes_the_forward_pass_again(folder: Path) -> None:
    plain, again = (
        estimated(folder, "llama", model={"gradient_checkpointing": on}) for on in (False, True)
    )
    assert plain.training is not None
    assert again.training is not None
    assert again.training.activations < plain.training.activations
    assert again.step_flops["train"] == pytest.approx(1.5 * plain.step_flops["train"], rel=0.1)


def test_bf16_weights_take_half(folder: Path) -> None:
    wide, narrow = (
        estimated(folder, "llama", training={"precision": precision}, model={"dtype": dtype})
        for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
    )
    assert wide.training is not None
    assert narrow.training is not None
    assert narrow.training.weights == pytest.approx(wide.training.weights / 2, rel=0.02)
    assert narrow.training.trained == wide.training.trained
    assert narrow.peak == 2 * wide.peak


def test_flops_of_a_full_step_are_six_a_parameter_and_token(folder: Path) -> None:
    """Forward, and the gradients of activations and weights; attention is little here."""
    save_tiny_model("llama", folder / "llama", hidden_size=128, intermediate_size=512)
    found = estimated(folder, "llama", method={"name": "full"})
    linear = found.parameters - 2 * 384 * 128  # looked up, and used for the answers only
    assert found.batch is not None
    # The mean batch is almost as large as the largest.
    expected = 6 * linear * found.batch[0] * found.batch[1]
    assert 0.85 < found.step_flops["train"] / expected < 1.15


def test_hours_are_flops_by_the_reached_peak(folder: Path) -> None:
    found = estimate(config(folder, method=METHODS["peml"]), CPU, share=0.25)
    assert set(found.flops) == {"search", "train", "evaluation"}
    for phase in ("search", "train"):
        steps = found.steps[phase]
        assert found.flops[phase] == pytest.approx(steps * found.step_flops[phase])
    for phase, flops in found.flops.items():
        assert found.hours[phase] == pytest.approx(flops / (0.25 * 1e9) / 3600)


def test_twice_the_epochs_are_twice_the_flops(folder: Path) -> None:
    once, twice = (
        estimated(folder, training={"precision": "fp32", "epochs": float(n)}) for n in (1, 2)
    )
    assert twice.flops["train"] == pytest.approx(2 * once.flops["train"])


def test_a_bilevel_search_computes_held_out_rows_as_well(folder: Path) -> None:
    single, bilevel = (
        estimated(
            folder,
            method=METHODS["peml"] | {"search": search},
            training={"precision": "fp32", "epochs": 40.0},
        )
        for search in ({}, {"optimise": "bilevel", "every": 1})
    )
    assert bilevel.step_flops["train"] == pytest.approx(single.step_flops["train"], rel=0.05)
    assert bilevel.step_flops["search"] > 1.5 * single.step_flops["search"]


def test_no_weights_are_read(folder: Path) -> None:
    settings = config(folder)
    before = estimate(settings, CPU)
    (folder / "bert" / "model.safetensors").unlink()
    assert estimate(settings, CPU) == before


def test_what_fit_refuses_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lorra"):
        estimated(folder, training={"precision": "fp32", "learning_rates": {"lorra": 1e-3}})


def test_rows_can_be_assumed(folder: Path) -> None:
    settings = config(folder, "llama", model={"max_length": 64})
    for path in folder.rglob("*.jsonl"):
        path.unlink()
    found = estimate(settings, CPU, rows=1000, length=32)
    assert found.batch == [8, 64]  # all of batches.tokens
    assert found.steps == {"search": 0, "train": 2 * 1000 // 16}
    assert "assumed" in found.basis
    more = estimate(settings, CPU, rows=2000, length=32)
    assert more.training == found.training
    assert more.flops["train"] == pytest.approx(2 * found.flops["train"])
    with pytest.raises(ConfigError, match="--length"):
        estimate(settings, CPU, rows=1000)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("assumed", [{}, {"rows": 1000, "length": 32}])
def test_a_cpu_scores_few_tokens_at_once(
    folder: Path, family: str, assumed: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASS_LIMITS, "cpu", PassLimits(tokens=128, logits=2**23))
    settings = config(folder, family, evaluation={"tokens": 4096}, model={"max_length": 64})
    gpu = read_device("a100")
    few, many = (estimate(settings, device, **assumed).evaluation for device in (CPU, gpu))
    assert few is not None
    assert many is not None
    assert 2 * few.activations < many.activations
    assert PASS_LIMITS["cpu"].tokens == 128


def test_devices_have_names() -> None:
    assert read_device("h100").peak("bf16") > read_device("a100").peak("bf16")
    assert read_device("cpu").kind == "cpu"
    with pytest.raises(ConfigError, match=r"h100.*rtx4090"):
        read_device("h10")


def test_a_gpu_computes_in_bf16_unless_the_config_says_otherwise(folder: Path) -> None:
    gpu = read_device("a100")
    sections: dict[str, Any] = {"training": {"precision": "auto"}, "model": {"dtype": "auto"}}
    chosen = estimate(config(folder, **sections), gpu)
    assert (chosen.precision.compute, chosen.precision.weights) == ("bf16", "bfloat16")
    assert chosen.peak == gpu.bf16
    assert estimate(config(folder), gpu).peak == gpu.fp32


@pytest.mark.parametrize(("quantization", "share"), [("int8", 0.25), ("nf4", 0.125 + 1 / 256)])
def test_quantised_weights_take_their_bits(
    folder: Path, quantization: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peml.models.quantization.find_spec", lambda name: object())
    wide: Any = {"hidden_size": 128, "intermediate_size": 512}
    save_tiny_model("llama", folder / "llama", **wide)
    plain = estimated(folder, "llama")
    packed = estimated(folder, "llama", model={"quantization": quantization})
    assert packed.trainable_parameters == plain.trainable_parameters
    assert packed.parameters == plain.parameters
    linear = 4 * (plain.parameters - 2 * 384 * 128 - 5 * 128)
    assert plain.training is not None
    assert packed.training is not None
    saved = plain.training.weights - packed.training.weights
    assert saved == pytest.approx((1 - share) * linear, rel=0.01)
    # Weights are unpacked again for the backward pass: nothing more is kept than of plain ones.
    assert packed.training.activations <= plain.training.activations + 4 * 512 * 128
    assert packed.step_flops["train"] == pytest.approx(plain.step_flops["train"], rel=0.02)


def test_generation_warns_of_no_padding(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = TASK.replace("type: classification", "type: generation").replace("accuracy", "rouge_l")
    (folder / "reviews.yaml").write_text(text.replace("labels: [bad, good]\n", ""), "utf-8")
    assert estimated(folder, "llama").evaluation is not None
    assert "padding" not in caplog.text + capfd.readouterr().err


def test_a_search_is_evaluated_twice_more_around_its_end(folder: Path) -> None:
    workloads = [read_workload(config(folder, method={"name": n})) for n in ("lora", "peml")]
    plain, searched = (workload.scorings[0] for workload in workloads)
    assert plain.development > 0
    assert searched.development == plain.development * (2 + 2) / 2  # epochs, and two more
