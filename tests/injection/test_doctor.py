"""The doctor says what works, and why the rest doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from peml.cli.diagnosis import Finding, diagnose, load_for_diagnosis
from peml.cli.doctor import doctor
from peml.errors import ModelError
from peml.testing.models import save_tiny_model, tiny_model


def _by_name(family: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(tiny_model(family))}


def test_a_rotary_decoder_can_do_everything() -> None:
    found = _by_name("llama")
    assert found["prefix"].status == "yes"
    assert found["prefix export to PEFT"].status == "yes"
    assert found["gradient checkpointing"].status == "yes"
    assert found["LoRA merging"].status == "yes"
    assert found["self-attention layers"].value == "2"
    assert found["key/value heads"].value == "2"
    assert found["query heads"].value == "4"
    assert found["head size"].value == "8"
    assert "torch 2" in found["versions"].value


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bert", "decoders only"),
        ("t5", "decoders only"),
        ("mistral", "scrolls out"),
        ("gpt2", "not rotary"),
    ],
)
def test_why_peft_export_is_impossible(family: str, reason: str) -> None:
    found = _by_name(family)
    assert found["prefix"].status == "yes"
    assert found["prefix export to PEFT"].status == "no"
    assert reason in found["prefix export to PEFT"].reason


def test_what_low_rank_updates_cannot_be_put_on_is_said() -> None:
    names = {"tied layers", "fused experts"}
    assert not names & _by_name("llama").keys()
    found = _by_name("qwen2-moe")
    assert found["LoRA merging"].reason == "17 linear layers"
    assert found["fused experts"].value == "4"
    assert "layers.0.mlp.experts.gate_up_proj" in found["fused experts"].reason
    tied = _by_name("t5")["tied layers"]
    assert tied.value == "4"
    assert "shared, encoder.embed_tokens, decoder.embed_tokens, lm_head" in tied.reason
    direct = _by_name("mamba")["layers read directly"]
    assert direct.value == "6"  # three in each of two layers
    assert "without calling it" in direct.reason


def test_frequencies_that_change_with_the_text_are_seen() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    findings = diagnose(tiny_model("llama", rope_parameters=rope))
    (found,) = [finding for finding in findings if finding.name == "prefix export to PEFT"]
    assert found.status == "no"
    assert "length of the text" in found.reason


def test_windows_and_cross_attention_are_shown() -> None:
    assert _by_name("gemma2")["sliding windows"].value == "8"
    assert "in 1 of 2 layers" in _by_name("gemma2")["sliding windows"].reason
    assert "(no prefix): 2" in _by_name("t5")["self-attention layers"].reason


@pytest.mark.parametrize("family", ["deberta-v2", "bloom", "mamba"])
def test_unsupported_models_get_the_reason(family: str) -> None:
    found = _by_name(family)
    assert found["prefix"].status == "no"
    assert "attention" in found["prefix"].reason
    assert found["prefix export to PEFT"].status == "no"


def _run(model: Path) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, [str(model)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_command_prints_the_findings_and_its_exit_status_says_prefix_or_not(
    tmp_path: Path,
) -> None:
    status, output = _run(save_tiny_model("llama", tmp_path / "llama"))
    assert status == 0, output
    assert "causal" in output
    assert "key/value heads" in output
    status, output = _run(save_tiny_model("deberta-v2", tmp_path / "deberta"))
    assert status == 1
    assert "not supported" in output
    assert "attention interface" in output


@pytest.mark.parametrize(
    ("file", "kind"),
    [("peml.json", "the model"), ("environment.json", "the folder"), ("study.yaml", "a study")],
)
def test_a_folder_of_pemls_own_is_no_base_model(tmp_path: Path, file: str, kind: str) -> None:
    (tmp_path / file).write_text("{}")
    merged = tmp_path / ("backbone" if file == "peml.json" else "model/backbone")
    merged.mkdir(parents=True)
    with pytest.raises(ModelError) as caught:
        load_for_diagnosis(str(tmp_path), trust_remote_code=False)
    assert kind in caught.value.problem
    assert "base_model" in caught.value.action
    assert str(merged) in caught.value.action
