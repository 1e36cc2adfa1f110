"""Contexts as text: the merged model answers after them as the run's model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peml.errors import RunError
from peml.export import export_model
from peml.export.text import TextExport
from peml.files import write_json, write_text
from peml.serving import load
from peml.testing import batch_of
from tests.export.trained import run_of


def test_plain_transformers_scores_a_real_row_after_the_text(tmp_path: Path) -> None:
    run, out = run_of("llama", "lora+context", tmp_path), tmp_path / "out"
    assert export_model(run, out, "text", "mood") == [out / "."]
    assert sorted(p.name for p in (out / "contexts").iterdir()) == ["mood.json", "mood.txt"]
    assert (
        "Checked when it was written: in a process without PEML" in (out / "README.md").read_text()
    )

    base = load(run).base
    batch = batch_of(base, [(0, {"text": "the dog", "label": 1})], "score")
    text = (out / "contexts/mood.txt").read_text(encoding="utf-8")
    described = json.loads((out / "contexts/mood.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    prompt = base.tasks[0].template.replace("{{ text }}", "the dog")
    assert described["template"] == base.tasks[0].template
    losses = []
    for word in base.tasks[0].verbalised_labels:
        before, whole = (tokenizer(text + t).input_ids for t in (prompt, f"{prompt} {word}"))
        assert whole[: len(described["token_ids"])] == described["token_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before), len(whole))
        losses.append(sum(float(logits[place - 1, whole[place]]) for place in places))
    with torch.no_grad():
        scores = base(batch).scores.flatten()
    # PEML scores an end token as a part of each option, so only the order is compared.
    assert (scores[0] > scores[1]) == (losses[0] > losses[1])


@pytest.mark.usefixtures("one_process")
def test_a_text_that_is_read_as_other_tokens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write = run_of("llama", "lora+context", tmp_path), TextExport.write

    def with_another_text(export: TextExport, folder: Path) -> Any:
        named = write(export, folder)
        place = folder / "contexts/mood.txt"
        write_text(place, f"Oh. {place.read_text(encoding='utf-8')}")
        return named

    monkeypatch.setattr(TextExport, "write", with_another_text)
    with pytest.raises(RunError, match=r"reads contexts/mood.txt as other tokens"):
        export_model(run, tmp_path / "out", "text", "mood")


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lora+context", {"context": {"of": "frozen"}}, "keys and values of the base model"),
        ("lora", {}, "has no contexts"),
    ],
)
def test_what_is_not_exact_as_text_is_refused(
    tmp_path: Path, method: str, options: dict[str, Any], said: str
) -> None:
    run = run_of("llama", method, tmp_path, **options)
    with pytest.raises(RunError, match=said):
        export_model(run, tmp_path / "out", "text")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_process")
def test_another_text_than_the_models_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write = run_of("llama", "lora+context", tmp_path), TextExport.write

    def with_other_ids(export: TextExport, folder: Path) -> Any:
        named = write(export, folder)
        place = folder / "contexts/mood.json"
        said = json.loads(place.read_text(encoding="utf-8"))
        write_json(place, {**said, "token_ids": said["token_ids"][::-1]})
        return named

    monkeypatch.setattr(TextExport, "write", with_other_ids)
    with pytest.raises(RunError, match="logits differ by up to"):
        export_model(run, tmp_path / "out", "text", "mood")
    assert not (tmp_path / "out").exists()
