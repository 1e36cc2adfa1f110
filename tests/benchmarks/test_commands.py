"""Benchmarks of whole commands: comparisons, studies, runs in processes of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.cli import main
from peml.comparison.settings import load_comparison
from peml.tuning.settings import load_study
from tests.benchmarks.conftest import Script, in_process, options_of

Figures = Callable[[], list[dict[str, Any]]]


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
    overhead.main(options_of(tmp_path, model, source))
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
    options = [*options_of(tmp_path, model, source), "--folder", str(tmp_path / "studies")]
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
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, target = script("many_rows"), str(tmp_path / "figures.json")
    monkeypatch.setattr(rows.subprocess, "run", in_process(rows))
    rows.main(["--json", target, "--rows", "40", "--steps", "2", "--folder", str(tmp_path)])
    training, anonymous, peak, seconds, step = figures()
    assert training["target"] == "<= 500"
    assert all(figure["value"] >= 0 for figure in (training, anonymous, peak, seconds))
    assert step["value"] > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_many_task_files_loads_and_starts_a_suite(
    script: Script, tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = script("many_task_files")
    monkeypatch.setattr(files.subprocess, "run", in_process(files))
    files.main(["--json", str(tmp_path / "figures.json"), "--few", "1", "--many", "3"])
    loaded, started, again, _, *ratios = figures()
    assert all(figure["value"] > 0 for figure in (loaded, started, again, *ratios))
    assert started["target"] == "<= 5"
