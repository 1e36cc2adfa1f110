"""The benchmarks of large models, contexts and processes run through ``main`` on tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import peml.run.preparation
from peml.config.loading import load_config
from peml.injection.shared import Shared, attend_shared
from peml.testing.models import save_tiny_model
from tests.benchmarks.conftest import Script

Figures = Callable[[], list[dict[str, Any]]]


def test_gpu_writes_what_it_has_when_a_part_fails(
    script: Script, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = script("gpu")

    def fail(bench: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "measure_evaluation", fail)
    target = tmp_path / "gpu.json"
    parts = ["evaluation", "agreement", "large-checkpointing", "small-steps"]
    gpu.main(["--tiny", "--json", str(target), "--source", str(source), "--only", *parts])
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["problems"] == {"evaluation": "RuntimeError: out of memory"}
    assert set(found["seconds"]) == set(parts)
    figures = {figure["name"]: figure for figure in found["figures"]}
    agreement = [figure for name, figure in figures.items() if "float32" in name]
    assert [figure["holds"] for figure in agreement] == [True] * 3
    against = [name for name, figure in figures.items() if figure["target"] == ">= 1.5"]
    assert len(against) == 3
    assert all("1.2 B, checkpointing on" in name for name in against)
    assert {f["target"] for name, f in figures.items() if "step," in name} == {"<= 1.1", "<= 1.05"}


def test_compiling_sets_compiled_steps_against_plain_ones(
    script: Script, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, race = script("compiling"), script("race")
    # Without a compiler.
    monkeypatch.setattr(race, "CompiledBlocks", partial(race.CompiledBlocks, backend="eager"))
    monkeypatch.setattr(peml.run.preparation, "check_compiler", lambda: None)
    model = save_tiny_model("llama", tmp_path / "llama", num_hidden_layers=1)
    target = tmp_path / "figures.json"
    options = ["--model", str(model), "--source", str(source), "--json", str(target)]
    sizes = ["--rows", "4", "--steps", "1", "--segments", "2", "--sides", "PEML, lora"]
    compiling.main([*options, *sizes])
    found = {figure["name"]: figure["value"] for figure in json.loads(target.read_text())}
    assert found["PEML, lora, compiled, without"] > 0
    assert found["PEML, lora, compiled / without, tokens per second"] > 0
    assert found["PEML, lora, compiled: graphs"] > 0
    assert "PEML, lora, compiled: first 1 steps take longer by" in found


def test_context_step_sets_every_way_to_hold_a_context_against_lora(
    script: Script, tmp_path: Path
) -> None:
    target = tmp_path / "figures.json"
    sizes = ["--positions", "20", "--rows", "4", "--length", "8", "--rounds", "1"]
    options = ["--model", "tiny", "--dtype", "float32", "--json", str(target)]
    script("context_step").main([*options, *sizes])
    found = json.loads(target.read_text(encoding="utf-8"))
    targets = ["<= 1.35", "<= 1.6", None, None, None, None, None, "<= 0.35"]
    assert [figure["target"] for figure in found] == targets
    assert all(figure["value"] > 0 for figure in found)
    script("context_prediction").main([*options, *sizes])
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [figure["target"] for figure in found] == ["<= 1.25", "<= 0.25"]
    assert all(figure["value"] > 0 for figure in found)


def test_context_step_gives_each_shown_row_another_context(script: Script) -> None:
    step = script("context_step")
    sizes = ["--model", "tiny", "--positions", "50", "--rows", "8", "--length", "8"]
    arguments = step.size_options("").parse_args([*sizes, "--dtype", "float32"])
    arguments.shown = 3
    model = step.build("exact", arguments)
    model(step.draw_batch(arguments, heads=False))
    held = model.parts["context"].injection.contexts.by_task
    assert len(held) == 4 + 3
    assert max(held[row].length for row in held if row > 3) < min(held[t].length for t in range(4))


def test_the_naive_way_of_context_step_computes_the_same(script: Script) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(4, 4, 6, 8), torch.randn(4, 2, 6, 8), torch.randn(4, 2, 6, 8)
    contexts = [Shared(2, torch.randn(2, 5, 8), torch.randn(2, 5, 8)) for _ in range(2)]
    copied = script("context_step").copied
    naive, ours = (
        attend(query, key, value, None, contexts, scaling=0.3, causal=True)
        for attend in (copied, attend_shared)
    )
    torch.testing.assert_close(naive, ours)


def test_packing_sets_packed_rows_against_padded_ones(
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = script("packing")
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setitem(packing.SHAPES, "minilm", tiny | heads)
    monkeypatch.setattr(packing, "ROWS", {"little": (6, 8)})
    packing.main(["--json", str(tmp_path / "figures.json"), "--tokens", "24", "--rounds", "2"])
    ratio, difference = figures()
    assert ratio["value"] > 0
    assert difference["holds"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_bulk_prediction_measures_a_file_against_an_evaluation(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk, target = script("bulk_prediction"), tmp_path / "figures.json"
    monkeypatch.setattr(bulk, "in_fresh_process", bulk.measure_memory)
    sizes = ["--rows", "20", "--speed-rows", "8", "--rounds", "1", "--model", "tiny"]
    bulk.main(["--json", str(target), *sizes])
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [figure["target"] for figure in found] == ["<= 300", None, ">= 0.9", None, None]
    assert all(figure["value"] > 0 for figure in found[1:])


def test_processes_compares_two_with_one(
    script: Script,
    tmp_path: Path,
    model: Path,
    source: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes, rounds = script("processes"), []

    def run(command: list[Any], **_: Any) -> None:
        config, folder = command[-2:]
        two = "torch.distributed.run" in command
        read = load_config(config)
        rounds.append((folder.name, two, read.training.accumulation, read.batches.even_steps))
        train = {"1-0": [20, 20], "1-1": [19, 19], "2-0": [10, 8], "2-1": [10, 9]}[folder.name]
        for rank in range(2 if two else 1):
            spent = {"train": train[:: 1 - 2 * rank], "evaluate": [9 / (1 + two)]}
            (folder.parent / f"{folder.name}-{rank}.json").write_text(json.dumps(spent))

    monkeypatch.setattr(processes.subprocess, "run", run)
    options = ["--model", str(model), "--source", str(source), "--clock", "cpu"]
    options += ["--set", "batches.even_steps=true"]
    processes.main(["--json", str(tmp_path / "figures.json"), *options])
    assert [figure["value"] for figure in figures()] == pytest.approx([1.9, 2.0])
    assert rounds[:2] == [("1-0", False, 2, True), ("2-0", True, 2, True)]


def test_sharding_compares_a_part_with_the_whole(
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharding, llama = script("sharding"), save_tiny_model("llama", tmp_path / "llama")

    def run(command: list[Any], **_: Any) -> None:
        kind, folder = command[-2:]
        sharding.work(str(llama), 8, "none", Path(folder))
        found = json.loads((Path(folder) / "none-0.json").read_text())
        assert found["weights"] > 0
        found |= {"loaded": 2**20}  # too little to be seen
        for rank in range(2 if kind == "fsdp" else 1):
            share = {name: value / 2 if kind == "fsdp" else value for name, value in found.items()}
            (Path(folder) / f"{kind}-{rank}.json").write_text(json.dumps(share))

    monkeypatch.setattr(sharding.subprocess, "run", run)
    sharding.main(["--model", str(llama), "--json", str(tmp_path / "figures.json")])
    assert [figure["value"] for figure in figures()][1:3] == [0.5, 0.5]


def test_attention_sets_pemls_against_torchs(
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = script("attention")
    tiny: dict[str, Any] = {"hidden_size": 18, "intermediate_size": 16, "num_hidden_layers": 1}
    monkeypatch.setattr(attention, "BATCHES", ((2, 8),))
    for config in attention.MODELS.values():
        config.update(tiny | {"num_attention_heads": 9})
    attention.main(["--json", str(tmp_path / "figures.json"), "--rounds", "2"])
    assert all(each["value"] > 0 for each in figures())
    assert len(figures()) == 4
