"""Each benchmark runs through its ``main`` on a tiny model; no time is asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.run.training import attach
from peml.testing import save_tiny_model, tiny_task_model
from tests.benchmarks.conftest import Script, in_process, options_of, scored_rows

Figures = Callable[[], list[dict[str, Any]]]


def test_batching_counts_padding(
    script: Script, tmp_path: Path, model: Path, source: Path, figures: Figures
) -> None:
    script("batching").main([*options_of(tmp_path, model, source), "--epochs", "1"])
    example, default, random = figures()
    assert 0 <= example["value"] < random["value"] < 1
    assert default["target"] == "<= 0.1"
    assert random["target"] is None


def test_batching_agrees_with_the_plan_of_the_stream(
    script: Script, tmp_path: Path, model: Path, source: Path
) -> None:
    batching, common = script("batching"), script("common")
    options = options_of(tmp_path, model, source)
    prepared = common.load_mixture(common.benchmark_parser("").parse_args(options))
    counted = batching.padding_of_batches(prepared.stream, 1)
    assert counted == pytest.approx(prepared.stream.padding(0))


def test_without_a_source_the_demo_is_taken(
    script: Script, tmp_path: Path, model: Path, figures: Figures, capsys: Any
) -> None:
    script("batching").main(
        ["--json", str(tmp_path / "figures.json"), "--model", str(model), "--epochs", "1"]
    )
    assert figures()
    assert "no --source given" in " ".join(capsys.readouterr().out.split())


def test_step_time_compares_prefix_and_supernet(
    script: Script, tmp_path: Path, model: Path, source: Path, figures: Figures
) -> None:
    script("step_time").main(
        [
            *options_of(tmp_path, model, source),
            *("--rows", "4", "--length", "8", "--rounds", "2"),
            *("--precisions", "fp32", "bf16", "--clock", "cpu"),
        ]
    )
    targets = {f["name"]: f["target"] for f in figures()}
    assert targets["LoRA + prefix / PEFT LoRA, 4 x 8 tokens, fp32"] == "<= 1.05"
    assert targets["LoRA + supernet / PEFT LoRA, 4 x 8 tokens, fp32"] == "<= 1.1"
    assert targets["LoRA + prefix / PEFT LoRA, 4 x 8 tokens, bf16"] is None


def test_search_cost_weighs_search_and_training(
    script: Script, tmp_path: Path, model: Path, source: Path, figures: Figures, monkeypatch: Any
) -> None:
    cost = script("search_cost")
    drawn: list[int] = []
    original = cost._SameBatch.loss

    def loss(rows: Any, draw: int) -> Any:
        drawn.append(draw)
        return original(rows, draw)

    monkeypatch.setattr(cost._SameBatch, "loss", loss)
    options = options_of(tmp_path, model, source)
    cost.main([*options, "--rows", "4", "--length", "8", "--rounds", "2", "--clock", "cpu"])
    # Two searches with a held-out batch in one of their two kinds of step, for two batches.
    assert len(drawn) == 2 * 2 * (2 + 2)
    found = {figure["name"]: figure for figure in figures()}
    whole = found["bilevel every 4: search + train / LoRA, 4 x 8 tokens"]
    assert whole["target"] == "<= 1.35"
    assert found["single-level: search + train / LoRA, 4 x 8 tokens"]["target"] == "<= 1.15"
    assert found["sampled path: search / LoRA, 4 x 8 tokens"]["target"] is None


def test_the_timed_prefix_is_in_every_layer(
    script: Script, tmp_path: Path, model: Path, source: Path
) -> None:
    step_time, common = script("step_time"), script("common")
    options = options_of(tmp_path, model, source)
    prepared = common.load_mixture(common.benchmark_parser("").parse_args(options))
    batch = step_time.full_batch(prepared, 4, 8)
    for kind in ("LoRA + prefix", "LoRA + supernet"):
        attached = step_time.attached(prepared, kind, batch)
        injected = attached.parts["prefix"].yielded()
        assert injected.tensor.shape[3] == 16
        assert all(injected.active)


def test_the_rival_computes_the_same_loss(
    script: Script, tmp_path: Path, model: Path, source: Path
) -> None:
    common, plain = script("common"), script("plain")
    arguments = common.benchmark_parser("").parse_args(options_of(tmp_path, model, source))
    prepared = common.load_mixture(arguments, "method={name: lora}")
    ours = attach(prepared, torch.device("cpu"), None).eval()
    rival = plain.PlainLora(prepared, r=8, alpha=16.0).eval()
    assert ours.base.heads is not None
    rival.heads.load_state_dict(ours.base.heads.state_dict())
    batch = prepared.stream.next()
    theirs = rival(
        batch.input_ids, batch.attention_mask, batch.targets, batch.task_ids, batch.token_type_ids
    )
    torch.testing.assert_close(theirs.loss, ours(batch).loss)
    trained = sum(p.numel() for p in rival.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for group in ours.groups() for p in group.parameters)


def test_throughput_measures_every_side(
    script: Script,
    tmp_path: Path,
    model: Path,
    source: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throughput = script("throughput")
    monkeypatch.setattr(throughput.subprocess, "run", in_process(throughput))
    throughput.main(
        [
            *options_of(tmp_path, model, source),
            *("--rows", "4", "--steps", "1", "--segments", "2", "--memory-steps", "2"),
        ]
    )
    found = {figure["name"]: figure for figure in figures()}
    for side in throughput.SIDES:
        assert found[f"{side} / {throughput.RIVAL}"]["target"] == ">= 2"
        assert found[f"{side}: real tokens per second"]["value"] > 0
        assert found[f"{side}: peak memory"]["value"] > 0


def test_decoder_measures_speed_steps_and_memory(
    script: Script,
    tmp_path: Path,
    source: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = script("decoder")
    monkeypatch.setattr(decoder.subprocess, "run", in_process(decoder))
    monkeypatch.setattr(decoder, "require_harness", lambda: None)
    monkeypatch.setitem(decoder.WORK["evaluation"], decoder.HARNESS, decoder.evaluate_ours)
    model = save_tiny_model("llama", tmp_path / "llama")
    sizes = ["--rows", "4", "--steps", "1", "--more", "1", "--segments", "2", "--rounds", "2"]
    sizes += ["--memory-steps", "2", "--evaluation-rows", "4"]
    decoder.main([*options_of(tmp_path, model, source), *sizes])
    found = {figure["name"]: figure for figure in figures()}
    targets = {name: figure["target"] for name, figure in found.items() if figure["target"]}
    assert {targets[f"{side} / {decoder.RIVAL}"] for side in decoder.SIDES} == {">= 2.5"}
    steps = {name: target for name, target in targets.items() if "tokens" in name}
    assert sorted(steps.values()) == ["<= 1.05", "<= 1.1"]
    memory = {name: target for name, target in targets.items() if "memory" in name}
    assert list(memory.values()) == ["<= 0.6", "<= 0.5", "<= 1"]
    assert all(figure["value"] > 0 for figure in found.values())


def test_method_steps_compares_every_method_at_peft_loras_size(
    script: Script, tmp_path: Path, model: Path, source: Path, figures: Figures
) -> None:
    sizes = ["--rows", "2", "--length", "8", "--rounds", "2"]
    method_steps = script("method_steps")
    method_steps.main([*options_of(tmp_path, model, source), *sizes])
    measured = figures()
    assert len(measured) == 2 * len(method_steps.METHODS)
    assert all(figure["value"] > 0 for figure in measured)
    assert {figure["target"] for figure in measured} == {"<= 1.3", "<= 1.8"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_task_memory_measures_what_a_step_takes(
    script: Script, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = script("task_memory")
    monkeypatch.setattr(memory.subprocess, "run", in_process(memory))
    size, seconds = memory.in_fresh_process("MTL-LoRA", 4, str(model))
    assert size >= 0
    assert seconds > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_estimate_sets_every_config_against_what_was_measured(
    script: Script,
    tmp_path: Path,
    model: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    estimate = script("estimate")
    monkeypatch.setattr(estimate.subprocess, "run", in_process(estimate))
    monkeypatch.chdir(model.parent)
    tiny = (model.name, "method={name: lora}", "tasks.include=[topics]")
    monkeypatch.setattr(estimate, "CONFIGS", {"tiny": tiny})
    monkeypatch.setattr(estimate, "peak_memory", lambda: estimate._resident() + 2**20)
    estimate.main(["--json", str(tmp_path / "figures.json"), "--folder", str(tmp_path)])
    found = figures()
    assert [figure["target"] for figure in found] == ["1 +- 0.2"] * 2
    assert [figure["name"].split(",")[0] for figure in found] == [
        "tiny: training",
        "tiny: evaluation",
    ]


@pytest.mark.parametrize("real", [True, False])
def test_option_scoring_sets_shared_contexts_against_plain_ones(
    script: Script, tmp_path: Path, figures: Figures, real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = script("option_scoring")
    tiny = tiny_task_model("llama", vocab_size=scoring.VOCABULARY).eval()
    monkeypatch.setattr(scoring, "small_llama", lambda: tiny)
    given = ["--source", str(scored_rows(tmp_path / "data"))] if real else []
    options = ["--json", str(tmp_path / "figures.json"), "--no-memory", "--clock", "cpu"]
    scoring.main([*options, *given, "--rows", "2", "--rounds", "1", "--tokens", "1024"])
    found = figures()
    assert [figure["unit"].split(",")[0] for figure in found] == ["ratio", "nats"] * 2
    assert all(figure["value"] > 0 for figure in found[::2])
    assert found[0]["target"] == ">= 1.5"
    assert all(figure["holds"] for figure in found if figure["unit"] == "nats")


def test_answer_logits_sets_the_answer_against_every_token(
    script: Script, tmp_path: Path, figures: Figures
) -> None:
    options = ["--json", str(tmp_path / "figures.json"), "--layers", "1", "--rows", "2"]
    script("answer_logits").main([*options, "--length", "8", "--rounds", "2", "--no-memory"])
    ratio, difference = figures()
    assert ratio["value"] > 0
    assert difference["value"] < 1e-4


def test_option_scoring_asks_what_the_benchmarks_ask(script: Script, tmp_path: Path) -> None:
    scoring = script("option_scoring")
    source = scored_rows(tmp_path)
    endings = scoring.long_endings(source, 8)
    assert [len({r.context for r in endings[i : i + 4]}) for i in (0, 4)] == [1, 1]
    assert all(request.option[-1] == scoring.END for request in endings)
    letters = scoring.five_shot_letters(source, 8)
    assert len(letters) == 2 * 4  # two subjects, a question each
    assert all(len(request.option) == 1 for request in letters)
    assert len({request.option for request in letters}) == 4
    shots = 5 * (len(scoring.tokens_of("Where is the ball? A. in B. on C. at D. by Answer: B")))
    assert letters[0].context[: 1 + shots] == letters[1].context[: 1 + shots]
    assert letters[0].context[1 + shots :] != letters[4].context[1 + shots :]


def test_architectures_are_tried_and_refused_ones_say_why(script: Script, tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    script("model_families").main(["llama", "bloom", "t5", "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert "3 architectures could be built" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    said = {row[0]: row[2:] for row in rows if len(row) == 5}
    assert said["`llama`"] == ["yes", "yes", "yes"]
    assert said["`bloom`"] == ["yes", "no (1)", "no (1)"]
    assert said["`t5`"] == ["yes", "yes", "no (1)"]
    assert "1. the model does not use Transformers' attention interface" in text
