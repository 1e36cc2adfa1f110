"""Each benchmark runs through its ``main`` on a tiny model; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.cli import main
from peml.comparison import load_comparison
from peml.run.training import attach
from peml.testing import save_tiny_model, tiny_task_model
from peml.tuning import load_study
from tests.benchmarks.conftest import Script, scored_rows

Figures = Callable[[], list[dict[str, Any]]]


def _options(tmp_path: Path, model: Path, source: Path) -> list[str]:
    target = str(tmp_path / "figures.json")
    return ["--json", target, "--model", str(model), "--source", str(source)]


def _in_process(benchmark: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Stands in for `subprocess.run` of a benchmark that calls itself: saves the imports."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        written = StringIO()
        with redirect_stdout(written):
            benchmark.main(command[2:])
        return subprocess.CompletedProcess(command, 0, written.getvalue())

    return run


def test_batching_counts_padding(
    script: Script, tmp_path: Path, model: Path, source: Path, figures: Figures
) -> None:
    script("batching").main([*_options(tmp_path, model, source), "--epochs", "1"])
    example, default, random = figures()
    assert 0 <= example["value"] < random["value"] < 1
    assert default["target"] == "<= 0.1"
    assert random["target"] is None


def test_batching_agrees_with_the_plan_of_the_stream(
    script: Script, tmp_path: Path, model: Path, source: Path
) -> None:
    batching, common = script("batching"), script("common")
    options = _options(tmp_path, model, source)
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
            *_options(tmp_path, model, source),
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
    options = _options(tmp_path, model, source)
    cost.main([*options, "--rows", "4", "--length", "8", "--rounds", "2", "--clock", "cpu"])
    # Two searches with a held-out batch in one of their two kinds of step, for two batches.
    assert len(drawn) == 2 * 2 * (2 + 2)
    found = {figure["name"]: figure for figure in figures()}
    whole = found["bilevel every 4: search + train / LoRA, 4 x 8 tokens"]
    assert whole["target"] == "<= 1.35"
    assert found["single-level: search + train / LoRA, 4 x 8 tokens"]["target"] == "<= 1.15"
    assert found["sampled path: search / LoRA, 4 x 8 tokens"]["target"] is None


def test_search_stability_counts_what_wins(
    script: Script, tmp_path: Path, model: Path, source: Path, monkeypatch: Any, capsys: Any
) -> None:
    stability = script("studies.search_stability")
    made = []

    def call(arguments: list[str]) -> None:
        made.append(arguments[-1])
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0

    monkeypatch.setattr(stability, "call", call)
    settings = [f"model.name={model}", 'tasks.include=["sst2", "mrpc"]', "training.epochs=1"]
    settings += ["method.prefix.width=8", "batches.rows=8", "tasks.rows=60"]
    extra = [word for setting in settings for word in ("--set", setting)]
    runs = tmp_path / "stability"
    arguments = ["--source", str(source), "--runs", str(runs), *extra]
    stability.main([*arguments, "--seeds", "2"])
    assert made == [str(runs / "seed0"), str(runs / "seed1")]
    shown = capsys.readouterr().out
    assert "chosen in how many of 2 runs" in shown
    assert "(2 runs with scores)" in shown
    stability.main(["--runs", str(runs), "--collect"])
    assert capsys.readouterr().out in shown
    assert len(made) == 2


def test_the_timed_prefix_is_in_every_layer(
    script: Script, tmp_path: Path, model: Path, source: Path
) -> None:
    step_time, common = script("step_time"), script("common")
    options = _options(tmp_path, model, source)
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
    arguments = common.benchmark_parser("").parse_args(_options(tmp_path, model, source))
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
    monkeypatch.setattr(throughput.subprocess, "run", _in_process(throughput))
    throughput.main(
        [
            *_options(tmp_path, model, source),
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
    monkeypatch.setattr(decoder.subprocess, "run", _in_process(decoder))
    monkeypatch.setattr(decoder, "require_harness", lambda: None)
    monkeypatch.setitem(decoder.WORK["evaluation"], decoder.HARNESS, decoder.evaluate_ours)
    model = save_tiny_model("llama", tmp_path / "llama")
    sizes = ["--rows", "4", "--steps", "1", "--more", "1", "--segments", "2", "--rounds", "2"]
    sizes += ["--memory-steps", "2", "--evaluation-rows", "4"]
    decoder.main([*_options(tmp_path, model, source), *sizes])
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
    method_steps.main([*_options(tmp_path, model, source), *sizes])
    measured = figures()
    assert len(measured) == 2 * len(method_steps.METHODS)
    assert all(figure["value"] > 0 for figure in measured)
    assert {figure["target"] for figure in measured} == {"<= 1.3", "<= 1.8"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_task_memory_measures_in_a_process_of_its_own(script: Script, model: Path) -> None:
    assert script("task_memory").in_fresh_process("MTL-LoRA", 4, str(model)) >= 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_estimate_sets_every_config_against_what_was_measured(
    script: Script,
    tmp_path: Path,
    model: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    estimate = script("estimate")
    monkeypatch.setattr(estimate.subprocess, "run", _in_process(estimate))
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


@pytest.mark.skipif(sys.platform != "linux", reason="others don't fork workers from a server")
def test_compare_overhead_counts_processes_that_outlive_the_command(script: Script) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"
    assert script("compare_overhead").count([sys.executable, "-c", leave]).cpu >= 0.3


def test_compare_overhead_sets_the_comparison_against_its_runs(
    script: Script,
    tmp_path: Path,
    model: Path,
    source: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overhead, made = script("compare_overhead"), []

    def spend(verb: str, config: str, _: str, output: str) -> Any:
        if verb == "fit":
            made.append((Path(config).parent.name, output))
            return overhead.Spent(wall=5.0, cpu=4.0)
        planned = load_comparison(Path(config))
        assert planned.tuning is not None
        for run in (
            "tuning/glue/lora/trials/0001",
            "cells/glue/lora-seed0",
            "cells/glue/peml-seed0",
        ):
            (Path(output) / run).mkdir(parents=True)
            (Path(output) / run / "config.yaml").touch()
        return overhead.Spent(wall=16.5, cpu=12.12)

    monkeypatch.setattr(overhead, "spend", spend)
    overhead.main(_options(tmp_path, model, source))
    wall, processor = figures()
    assert {name for name, _ in made} == {"0001", "lora-seed0", "peml-seed0"}
    assert len({output for _, output in made}) == 3
    assert (wall["value"], wall["holds"]) == (pytest.approx(1.1), False)
    assert (processor["value"], processor["holds"]) == (pytest.approx(1.01), True)


def test_tuning_sets_studies_against_each_other(
    script: Script,
    tmp_path: Path,
    model: Path,
    source: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuning, calls = script("tuning"), []

    def peml(verb: str, config: str, _: str, output: str, **__: Any) -> float:
        calls.append((verb, Path(output).name))
        if verb == "fit":
            return 10.0
        planned = load_study(Path(config))
        pruned = planned.pruner.name == "hyperband"
        mean = 0.6 if planned.sampler.name == "random" else 0.75 if pruned else 0.8
        for number in range(2):
            folder = Path(output) / "trials" / f"{number:04}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").touch()
        state = "pruned" if pruned else "finished"
        trials = [
            {"number": 0, "state": "finished", "objectives": [mean + 0.01 * planned.sampler.seed]},
            {"number": 1, "state": state, "objectives": [0.1]},
        ]
        cost = {"tokens": 75 if pruned else 100}
        content = {"trials": trials, "best": [0], "cost": cost}
        (Path(output) / "study.json").write_text(json.dumps(content))
        return 20.4 if planned.execution.jobs == 1 else 12.0

    monkeypatch.setattr(tuning, "peml", peml)
    options = [*_options(tmp_path, model, source), "--folder", str(tmp_path / "studies")]
    options += ["--seeds", "2", "--trials", "2"]
    tuning.main(["overhead", "workers", "samplers", "pruning", *options])
    found = {figure["name"]: figure for figure in figures()}
    assert found["peml tune / its 2 trials, wall time"]["value"] == pytest.approx(1.02)
    assert found["two workers / one of one core"]["value"] == pytest.approx(1.7)
    assert found["tpe - random, mean of the seeds"]["value"] == pytest.approx(20)
    assert found["tokens saved, mean of the seeds"]["value"] == pytest.approx(25)
    assert found["best mean lost, mean of the seeds"]["value"] == pytest.approx(5)
    assert found["trials stopped, of each study"]["value"] == 1
    assert len(calls) == 1 + 2 + 3 + 4 + 2  # pruning takes the studies without it from samplers
    tuning.main(["samplers", *options])
    assert len(calls) == 12
    with pytest.raises(SystemExit, match="remove it to measure its time again"):
        tuning.main(["overhead", *options])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_many_rows_measures_memory_while_training_draws(
    script: Script, tmp_path: Path, figures: Figures
) -> None:
    target = str(tmp_path / "figures.json")
    options = ["--rows", "40", "--steps", "2", "--folder", str(tmp_path)]
    script("many_rows").main(["--json", target, *options])
    training, anonymous, peak, seconds = figures()
    assert training["target"] == "<= 500"
    assert all(figure["value"] >= 0 for figure in (training, anonymous, peak, seconds))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_many_task_files_loads_and_starts_a_suite(
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = script("many_task_files")
    monkeypatch.setattr(files.subprocess, "run", _in_process(files))
    files.main(["--json", str(tmp_path / "figures.json"), "--few", "1", "--many", "3"])
    loaded, started, again, _ = figures()
    assert all(figure["value"] > 0 for figure in (loaded, started, again))
    assert started["target"] == "<= 5"
