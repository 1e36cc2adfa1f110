"""Encoders as one ONNX file: the same logits in onnxruntime, for batches of every size."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer

from peml.errors import RunError
from peml.export import check_export, export_model, load_model
from peml.export.onnx import write_graph
from peml.export.plain import Onnx
from peml.testing import batch_of
from tests.export.test_transformers_export import readme_code
from tests.export.trained import run_of

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.mark.parametrize(
    ("base", "method"),
    [("bert", "lora+prefix"), ("roberta", "prompt-tuning")],
)
def test_batches_of_every_size_have_the_models_logits(
    tmp_path: Path, base: str, method: str
) -> None:
    run, out = run_of(base, method, tmp_path), tmp_path / "out"
    assert export_model(run, out, "onnx") == [out / "."]
    assert {p.name for p in out.iterdir()} >= {"model.onnx", "tasks.json", "tokenizer.json"}
    model = load_model(run / "model")
    session = onnxruntime.InferenceSession(out / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(out)
    texts = ["the film was good", "bad", "a man and a dog and a box"]
    tasks = json.loads((out / "tasks.json").read_text())["tasks"]
    for rows in (texts[:1], texts[1:2], texts):
        inputs = tokenizer(rows, padding=True, return_tensors="np")
        (found,) = session.run(["logits"], dict(inputs))
        batch = batch_of(model, [(0, {"text": text, "label": 1}) for text in rows], "score")
        with torch.no_grad():
            output = model(batch)
            mood = model.predict(output, batch, 0)
        np.testing.assert_allclose(found, output.scores.numpy(), atol=1e-4, rtol=1e-4)
        first, after = tasks["mood"]["columns"]
        assert (found[:, first:after].argmax(1) == mood.numpy().argmax(1)).all()
    assert tasks["closeness"]["scale"] == {"low": 0.0, "high": 2.0}


def test_the_readmes_lines_run_without_peml(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    monkeypatch.setattr(exporter, "handlers", [caplog.handler])
    run, out = run_of("bert", "lora", tmp_path), tmp_path / "out"
    export_model(run, out, "onnx")
    assert "torchvision" not in caplog.text
    text = (out / "README.md").read_text()
    assert "logits of bad, good" in text
    assert "in onnxruntime, in a process without PEML" in check_export(out)["written"]
    code = readme_code(out) + '\nimport sys\nassert "peml" not in sys.modules'
    ended = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True)
    assert ended.stdout.startswith(b"[[")


def test_the_readmes_lines_cut_long_rows_as_the_run(tmp_path: Path) -> None:
    run, out = run_of("bert", "lora", tmp_path), tmp_path / "out"
    export_model(run, out, "onnx")
    long = "the film was good and the dog is bad " * 9
    code = readme_code(out).replace("a row's text", long)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    model = load_model(run / "model")
    assert namespace["inputs"]["input_ids"].shape[1] == model.family.max_length == 64
    batch = batch_of(model, [(0, {"text": long, "label": 1})], "score")
    with torch.no_grad():
        wanted = model(batch).scores
    np.testing.assert_allclose(namespace["logits"], wanted.numpy(), atol=1e-4, rtol=1e-4)


def test_eight_bits_say_how_far_they_are_off(tmp_path: Path) -> None:
    run = run_of("bert", "lora+prefix", tmp_path)
    export_model(run, tmp_path / "onnx-int8", "onnx-int8")
    assert not list((tmp_path / "onnx-int8").glob("*int8*"))
    weights = onnx.load(str(tmp_path / "onnx-int8/model.onnx")).graph.initializer
    assert any(weight.data_type == onnx.TensorProto.INT8 for weight in weights)
    assert re.search(
        r"change logits of random tokens by up to [0-9.e-]+ of 1",
        (tmp_path / "onnx-int8/README.md").read_text(),
    )


@pytest.mark.parametrize(
    ("base", "method", "said"),
    [
        ("llama", "lora", "family 'causal'.*--format transformers"),
        ("bert", "mtl-lora", "can't be merged into one model.*--format lora"),
        ("bert", "lora+context", "can't keep the contexts"),
    ],
)
def test_what_is_no_merged_encoder_is_refused(
    tmp_path: Path, base: str, method: str, said: str
) -> None:
    run = run_of(base, method, tmp_path)
    with pytest.raises(RunError, match=f"(?s){said}"):
        export_model(run, tmp_path / "out", "onnx")


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("bert", "lora", tmp_path)
    monkeypatch.setattr("peml.export.onnx.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"peml\[onnx\]"):
        export_model(run, tmp_path / "out", "onnx")


class _Branching(torch.nn.Module):
    """Computes otherwise for some rows, as rotary positions that follow the length do."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ids.float() if ids.max() > 5 else mask.float()


def test_a_model_that_branches_is_refused(tmp_path: Path) -> None:
    given = dict.fromkeys(("input_ids", "attention_mask"), torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(RunError, match="as an ONNX file for rows of any size: ") as caught:
        write_graph(_Branching(), given, tmp_path / "model.onnx")
    assert "\n" not in caught.value.problem
    assert not list(tmp_path.iterdir())


def test_other_logits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, logits = run_of("bert", "lora", tmp_path), Onnx.logits

    def shifted(reader: Onnx, place: str, **inputs: torch.Tensor) -> torch.Tensor:
        return logits(reader, place, **inputs) + 0.01

    monkeypatch.setattr(Onnx, "logits", shifted)
    with pytest.raises(RunError, match="logits differ by"):
        export_model(run, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
