"""`peml export --verify`: an export's answers in a fresh process are the run's stored ones."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.errors import RunError
from peml.evaluation import read_predictions
from peml.export import check_export, export_model
from peml.export.plain import Decoder
from peml.files import read_json
from peml.run.verification import against_predictions
from tests.cli.commands import peml
from tests.e2e.fixtures import Runs
from tests.e2e.toy import toy_config

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.e2e


def test_the_outcome_stands_in_manifest_and_readme(
    runs: Runs, tmp_path: Path, capsys: Capture
) -> None:
    """All five types of tasks, in a process without this package."""
    run, out = runs("causal", "lora+prefix"), tmp_path / "out"
    said = peml(capsys, "export", run, out, "--format", "transformers", "--verify")
    assert said.code == 0, said
    found = check_export(out)["predictions"]
    names = [task["name"] for task in read_json(run / "plan.json")["tasks"]]
    rows = sum(min(16, len(read_predictions(run, name).rows)) for name in names)
    assert (found["rows"], found["same"]) == (rows, rows)
    assert found["largest_difference"] <= 1e-4
    assert f"of {rows} rows, {rows} had the same answer" in (out / "README.md").read_text()
    assert f"{rows} of {rows} rows" in peml(capsys, "export", "--check", out).out
    table = peml(capsys, "export", "--list", run).out
    assert "transformers" in table
    assert "has no contexts to write as text" in table


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("family", "method", "formats"),
    [
        ("causal", "lora+prefix", ("peft", "cartridge")),
        ("causal", "lora", ("lora", "gguf")),
        ("seq2seq", "lora", ("lora",)),
        ("encoder", "lora", ("lora", "onnx")),
    ],
)
def test_every_format_gives_the_runs_answers(
    runs: Runs, tmp_path: Path, family: str, method: str, formats: tuple[str, ...]
) -> None:
    run = runs(family, method)
    for name in formats:
        export_model(run, tmp_path / name, name, prove=against_predictions(run))
        found = check_export(tmp_path / name)["predictions"]
        assert found["same"] == found["rows"] >= 30
        assert found["largest_difference"] <= 1e-4


@pytest.mark.usefixtures("one_process")
def test_contexts_give_the_runs_answers_as_cache_cartridge_and_text(
    distinct_toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    section: dict[str, Any] = {"name": "lora+context", "context": {"of": "adapted", "shots": 2}}
    section |= {"lora": {"r": 2, "learning_rate": 0.02}}
    run = tmp_path / "run"
    config = toy_config(distinct_toys, "causal", section)
    assert peml(capsys, "fit", config, "--output", run).code == 0
    for name in ("transformers", "text", "cartridge"):
        export_model(run, tmp_path / name, name, prove=against_predictions(run))
        found = check_export(tmp_path / name)["predictions"]
        assert found["same"] == found["rows"] >= 30


@pytest.mark.usefixtures("one_process")
def test_other_answers_are_refused(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = runs("causal", "lora"), tmp_path / "out"
    score = Decoder.score

    def shifted(reader: Decoder, place: str, **tensors: Any) -> torch.Tensor:
        return score(reader, place, **tensors) - 0.1

    monkeypatch.setattr(Decoder, "score", shifted)
    with pytest.raises(RunError, match="model answers row"):
        export_model(run, out, "transformers", prove=against_predictions(run))
    assert not out.exists()


@pytest.mark.usefixtures("one_process")
def test_the_benchmark_compares_every_stored_prediction(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, figures = runs("encoder", "lora"), tmp_path / "figures.json"
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("onnx_latency")
    benchmark.main([str(run), "--rounds", "4", "--json", str(figures)])
    same, difference, ratio, _ = read_json(figures)[:4]
    rows = sum(result["rows"] for result in read_json(run / "results.json")["tasks"].values())
    assert (same["value"], same["unit"]) == (rows, f"of {rows}")
    assert difference["value"] <= 1e-4
    assert ratio["target"] == ">= 1.5"
