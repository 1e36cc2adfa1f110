"""`peml export`: from a finished run to what other tools read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from peml.serving import load
from tests.cli.commands import peml
from tests.e2e.toy import toy_config
from tests.export.trained import run_of

Capture = pytest.CaptureFixture[str]


def test_the_folders_are_printed_one_a_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")  # a path is never broken
    run, out = run_of("bert", "mtl-lora", tmp_path), tmp_path / "adapters"
    said = peml(capsys, "export", run, out, "--format", "lora")
    assert said.code == 0, said
    assert said.out.split() == [str(out / name) for name in ("mood", "same", "closeness")]
    assert all((Path(line) / "adapter_config.json").is_file() for line in said.out.split())


def test_nothing_is_written_into_a_model_or_an_export(tmp_path: Path, capsys: Capture) -> None:
    run, out, rows = run_of("bert", "mtl-lora", tmp_path), tmp_path / "out", tmp_path / "rows.jsonl"
    assert peml(capsys, "export", run, out, "--format", "lora").code == 0
    rows.write_text("{}")
    for words in (
        ("export", run, run / "model" / "more", "--format", "lora"),
        ("export", run, out / "more", "--format", "lora"),
        ("predict", run, "--task", "mood", "-i", rows, "-o", run / "model" / "more.jsonl"),
        ("evaluate", run, "--json", out / "more.json"),
        ("fit", toy_config(tmp_path, "causal", {"name": "lora"}), "-o", run / "model" / "more"),
    ):
        said = peml(capsys, *words)
        assert said.code == 2
        assert "which holds only the files that its manifest.json lists" in " ".join(
            said.error.split()
        )
    assert peml(capsys, "export", "--check", out).code == 0
    load(run)


def test_list_and_check_stand_alone(tmp_path: Path, capsys: Capture) -> None:
    for words in (
        ("--check", "a", "b"),
        ("--list", "a", "--format", "lora"),
        ("--list", "--check", "a"),
    ):
        said = peml(capsys, "export", *words)
        assert said.code == 2
        assert "--list and --check stand alone" in said.error


@pytest.mark.e2e
def test_a_runs_adapters_answer_as_its_model(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    section = {"name": "mtl-lora", "r": 2, "learning_rate": 0.02}
    config, run = toy_config(toys, "causal", section), tmp_path / "run"
    assert peml(capsys, "fit", config, "--output", run).code == 0
    said = peml(capsys, "export", run, tmp_path / "out", "--format", "lora", "--task", "same")
    assert said.code == 0, said
    base = AutoModelForCausalLM.from_pretrained(toys / "llama")
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        ours = PeftModel.from_pretrained(base, said.out.strip())(input_ids=ids).logits
        trained = load(run).base
        trained.routing.one_task(1, torch.device("cpu"))
        wanted = trained.backbone(input_ids=ids).logits
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - plain).abs().max() > 1e-3


@pytest.mark.e2e
def test_a_runs_merged_model_and_prefix_answer_as_its_model(
    toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = "the old dog sleeps and the young cat runs home to the river"
    section = {"name": "lora+prefix", "network": "flat", "length": 4}
    section |= {"start": "text", "text": text}
    config, run, out = toy_config(toys, "causal", section), tmp_path / "run", tmp_path / "out"
    assert peml(capsys, "fit", config, "--output", run).code == 0
    said = peml(capsys, "export", run, out, "--format", "peft")
    assert said.code == 0, said
    assert said.out.split() == [str(out), str(out / "adapter")]
    merged = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        without = merged(input_ids=ids).logits
        ours = PeftModel.from_pretrained(merged, out / "adapter")(input_ids=ids).logits
        wanted = load(run).base.backbone(input_ids=ids).logits
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - without).abs().max() > 1e-3


def test_a_mistake_is_one_message(tmp_path: Path, capsys: Capture) -> None:
    run, out = run_of("bert", "mtl-lora", tmp_path), tmp_path / "adapters"
    said = peml(capsys, "export", run, out, "--format", "lora", "--task", "mod")
    assert said.code == 2
    assert said.error.startswith("error: ")
    assert "Did you mean 'mood'?" in said.error
    assert "Next: " in said.error
    assert not out.exists()
    said = peml(capsys, "export", run, out, "--format", "peft")
    assert said.code == 2
    assert "--format lora" in said.error
    assert not out.exists()


def test_the_format_has_to_be_one_there_is(tmp_path: Path, capsys: Capture) -> None:
    for words in ((), ("--format", "gguf")):
        said = peml(capsys, "export", tmp_path, tmp_path / "out", *words)
        assert said.code == 2
        assert "format" in said.error
