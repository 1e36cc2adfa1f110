"""Decoders for plain Transformers: the README's own loader answers as the run's model does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peml.errors import InjectionError, PemlError, RunError, TaskError
from peml.export import export_model, load_model
from peml.export.transformers import _of_prompt
from peml.files import read_tensors, write_tensors
from peml.testing import save_tiny_model
from tests.export.test_peft_export import _LOUD, answers, inputs
from tests.export.trained import run_of

_NO_PEML = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "peml":
            raise ImportError("this project is not here")

sys.meta_path.insert(0, Absent())
"""

# Behind the README's lines up to the cache, in their names.
_ASK = """
inputs, found = load_file(sys.argv[1]), {}
ids = inputs["input_ids"]

before = inputs.get("front", torch.zeros(held["keys"].shape[2], dtype=ids.dtype))
before = before.expand(len(ids), -1)
with torch.no_grad():
    found["none"] = model(input_ids=ids, past_key_values=front(len(ids))).logits
    for side in ("left", "right"):
        mask = torch.cat([torch.ones_like(before), inputs[side]], 1)
        logits = model(input_ids=ids, attention_mask=mask, past_key_values=front(len(ids))).logits
        found[side] = logits[inputs[side].bool()]
    whole = torch.cat([before, ids], 1)
    said = model.generate(
        whole, attention_mask=torch.cat([torch.ones_like(before), inputs["left"]], 1),
        past_key_values=front(len(ids)), max_new_tokens=8, min_new_tokens=8, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )
found["tokens"] = said.sequences[:, before.shape[1] :]
found["steps"] = torch.stack(said.logits)
from safetensors.torch import save_file
save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[2])
"""


def readme_code(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(code).replace("FOLDER", str(folder))


def ask(folder: Path, scratch: Path, **further: Any) -> dict[str, Any]:
    """Answers of a process that can't import peml and begins as the README says."""
    write_tensors(scratch / "inputs", {**inputs(), **further})
    loader = re.split("^(?:length|text) = ", readme_code(folder), flags=re.MULTILINE)[0]
    script = [_NO_PEML + loader + _ASK, scratch / "inputs", scratch / "found"]
    subprocess.run([sys.executable, "-c", *map(str, script)], check=True, timeout=280)
    return read_tensors(scratch / "found")


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.usefixtures("one_process")
def test_the_readmes_loader_gives_the_runs_answers_behind_a_prefix(tmp_path: Path) -> None:
    run, out = run_of("llama", "lora+prefix", tmp_path, **_LOUD), tmp_path / "out"
    assert export_model(run, out, "transformers") == [out / "."]
    assert "8 generated tokens were the same" in (out / "README.md").read_text()
    wanted = answers(load_model(run / "model").backbone)
    same(ask(out, tmp_path), wanted)
    code = _NO_PEML + readme_code(out)
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert said.stdout.strip()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("of", ["frozen", "adapted"])
def test_each_task_has_its_own_context(tmp_path: Path, of: str) -> None:
    run = run_of("qwen3", "lora+context", tmp_path, context={"of": of})
    out = tmp_path / "out"
    export_model(run, out, "transformers")
    contexts = sorted(path.name for path in (out / "contexts").iterdir())
    kinds = ("json", "safetensors", "txt")
    assert contexts == [f"{t}.{k}" for t in ("closeness", "mood", "same") for k in kinds]
    model = load_model(run / "model")
    model.routing.one_task(0, model.device)
    front = json.loads((out / "contexts/mood.json").read_text())["token_ids"]
    text = out.joinpath("README.md").read_text().replace("contexts/closeness", "contexts/mood")
    assert "contexts/mood.safetensors" in text
    same(ask(out, tmp_path, front=torch.tensor(front)), answers(model.backbone))


@pytest.mark.usefixtures("one_process")
def test_one_tasks_context_alone(tmp_path: Path) -> None:
    run, out = run_of("llama", "lora+context", tmp_path), tmp_path / "out"
    export_model(run, out, "transformers", "same")
    assert {path.stem for path in (out / "contexts").iterdir()} == {"same"}
    with pytest.raises(TaskError, match="not trained on a task 'sam'"):
        export_model(run, tmp_path / "other", "transformers", "sam")


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("base", ["gpt2", "mistral", "gemma"])
def test_a_prompt_becomes_the_cache_that_the_model_computes_for_it(
    tmp_path: Path, base: str
) -> None:
    """With learned positions and sliding windows too: it stands in front of the rows there."""
    run, out = run_of(base, "prompt-tuning", tmp_path, length=4), tmp_path / "out"
    export_model(run, out, "transformers")
    held = read_tensors(out / "past_key_values.safetensors")
    assert held["keys"].shape[2] == 4


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_without_anything_in_front_it_is_the_merged_model(tmp_path: Path, method: str) -> None:
    run, out = run_of("gpt2", method, tmp_path), tmp_path / "out"
    export_model(run, out, "transformers")
    assert not list(out.rglob("*past_key*"))
    assert "nothing else is needed" in (out / "README.md").read_text()


@pytest.mark.usefixtures("one_process")
def test_half_precision_keeps_the_cache_in_float32(tmp_path: Path) -> None:
    run = run_of("llama", "lora+prefix", tmp_path, dtype="bfloat16", **_LOUD)
    export_model(run, tmp_path / "out", "transformers")
    held = read_tensors(tmp_path / "out/past_key_values.safetensors")
    assert held["keys"].dtype == torch.float32


@pytest.mark.parametrize(
    ("base", "method", "kind", "said"),
    [
        ("gpt2", "lora+prefix", InjectionError, "positions are not rotary"),
        ("mistral", "lora+prefix", InjectionError, "has a sliding window"),
        ("bert", "lora", RunError, "heads the format 'transformers' can't store"),
        ("t5", "lora+prefix", RunError, "family 'seq2seq'"),
        ("llama", "mtl-lora", RunError, "separate weights for each task"),
    ],
)
def test_what_a_cache_would_change_is_refused(
    tmp_path: Path, base: str, method: str, kind: type[PemlError], said: str
) -> None:
    run = run_of(base, method, tmp_path)
    with pytest.raises(kind, match=said):
        export_model(run, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("method", ["lora+prefix", "lora+context"])
def test_keys_that_nobody_rotated_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = _LOUD if method == "lora+prefix" else {}
    run = run_of("llama", method, tmp_path, **options)
    monkeypatch.setattr("peml.injection.rotation.rotate_keys", lambda model, site, keys, n: keys)
    with pytest.raises(RunError, match="logits differ by up to"):
        export_model(run, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_process")
def test_rows_longer_than_a_window_see_the_prompt_no_more_than_in_the_run(tmp_path: Path) -> None:
    save_tiny_model("mistral", tmp_path / "mistral", sliding_window=8)
    run = run_of("mistral", "prompt-tuning", tmp_path, length=4)
    export_model(run, tmp_path / "out", "transformers")  # compares rows of 24 tokens


def test_a_prompt_longer_than_a_window_is_refused(tmp_path: Path) -> None:
    """A cache of the window's length has lost its first keys."""
    run = run_of("mistral", "prompt-tuning", tmp_path, length=9)
    with pytest.raises(RunError, match="windows shorter than its prompt of 9 vectors"):
        export_model(run, tmp_path / "out", "transformers")


def test_a_prompt_on_layers_without_keys_is_refused() -> None:
    cache = SimpleNamespace(layers=[SimpleNamespace(conv_states=None)])
    model: Any = SimpleNamespace(backbone=lambda **_: SimpleNamespace(past_key_values=cache))
    with pytest.raises(RunError, match="layers without keys and values"):
        _of_prompt(model, torch.zeros(2, 4))
