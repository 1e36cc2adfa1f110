"""`peml add-task RUN OTHER`: contexts that another run trained join a finished run's model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from peml.export.saved import DESCRIPTION, describe, open_model
from peml.files import MANIFEST, atomic_folder, checksums, read_tensors
from peml.serving import load
from peml.testing import save_tiny_model
from tests.cli.commands import peml
from tests.cli.test_add_task import ROWS, TASK

Capture = pytest.CaptureFixture[str]
TRAIN = [
    (f"{start} {colour} {what}", int(colour == "red"))
    for start, colour, what in product(("a", "the"), ("red", "green"), ("dog", "fox"))
]
NEW = [{"text": "a lazy red dog"}, {"text": "the dog"}]


def _config(
    folder: Path, base: Path, name: str = "colour", max_length: int = 48, **changed: Any
) -> Path:
    """A config that trains a task's context in front of a model."""
    (folder / "rows").mkdir(exist_ok=True)
    for split, rows in (("train", TRAIN), ("validation", ROWS)):
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (folder / f"rows/{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    task = folder / f"{name}.yaml"
    task.write_text(TASK.replace("colour", name), encoding="utf-8")
    config = {
        "model": {"name": str(base), "max_length": max_length},
        "tasks": {"files": [str(task)]},
        "method": {
            "name": "context-tuning",
            "context": {"shots": 2},
            "correction": {"learning_rate": 0.1},
        },
        "training": {"epochs": 2},
        **changed,
    }
    file = folder / f"{name}-config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def _first(capsys: Capture, folder: Path, method: str = "lora") -> Path:
    """A finished run with another task."""
    save_tiny_model("llama", folder / "llama")
    section: dict[str, Any] = {"name": method, "r": 2}
    if method == "lora+context":
        section = {"name": method, "lora": {"r": 2}, "context": {"shots": 2}}
    config = _config(folder, folder / "llama", "hue", 64, method=section)
    return _fit(capsys, config, folder / "run")


def _fit(capsys: Capture, config: Path, run: Path) -> Path:
    said = peml(capsys, "fit", config, "--output", run)
    assert said.code == 0, said.error
    return run


@pytest.mark.parametrize("method", ["lora", "lora+context"])
def test_a_trained_task_joins_and_all_answer_as_before(
    tmp_path: Path, capsys: Capture, method: str
) -> None:
    run = _first(capsys, tmp_path, method)
    before = load(run).predict("hue", NEW)
    other = _fit(capsys, _config(tmp_path, run / "model/backbone"), tmp_path / "other")
    trained = load(other).predict("colour", NEW)
    held = read_tensors(other / "model/contexts.safetensors")["colour"]

    said = peml(capsys, "add-task", run, other)
    assert said.code == 0, said.error
    assert "added colour: a trained context" in said.out
    both = load(run)
    assert both.predict("hue", NEW) == before
    assert both.predict("colour", NEW) == trained
    assert torch.equal(read_tensors(run / "model/contexts.safetensors")["colour"], held)
    card = (run / "model/README.md").read_text(encoding="utf-8")
    assert f"| colour | classification | {held.shape[3]} |" in card
    file = tmp_path / "tint.yaml"
    file.write_text(TASK.replace("colour", "tint"), encoding="utf-8")
    said = peml(capsys, "add-task", run, file, "--shots", 2)
    assert said.code == 0, said.error
    assert load(run).predict("colour", NEW) == trained
    # A second time, the name is taken.
    files = checksums(run)
    said = peml(capsys, "add-task", run, other)
    assert (said.code, "the model has a task 'colour'" in said.error) == (2, True)
    assert checksums(run) == files


def test_a_run_in_bfloat16_fits(tmp_path: Path, capsys: Capture) -> None:
    run = _first(capsys, tmp_path)
    base = {"name": str(run / "model/backbone"), "max_length": 48, "dtype": "bfloat16"}
    config = _config(tmp_path, run, model=base, training={"epochs": 2, "precision": "bf16"})
    other = _fit(capsys, config, tmp_path / "other")
    weights = [read_tensors(each / "model/backbone/model.safetensors") for each in (run, other)]
    assert any(not torch.equal(weights[0][name], held) for name, held in weights[1].items())
    said = peml(capsys, "add-task", run, other)
    assert said.code == 0, said.error
    for one, two in zip(*(load(each).predict("colour", NEW) for each in (run, other)), strict=True):
        assert one.scores == pytest.approx(two.scores, abs=0.02)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": {"name": "lora", "r": 2}}, "'lora' trained no context for each task"),
        ({"method": {"name": "lora+context", "context": {"shots": 2}}}, "has other weights"),
        ({"max_length": 80}, "model.max_length: 80, and the model has 64"),
        ({"evaluation": {"max_new_tokens": 7}}, "evaluation.max_new_tokens: 7, and the model has"),
        (
            {"method": {"name": "context-tuning", "context": {"shots": 2, "scope": "shared"}}},
            "has one context for all of its tasks",
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: Capture, changed: dict[str, Any], said: str
) -> None:
    run = _first(capsys, tmp_path)
    if "scope" in str(changed):
        changed["method"]["context"]["leave_one_out"] = None
    config = _config(tmp_path, run / "model/backbone", **changed)
    other = _fit(capsys, config, tmp_path / "other")
    files = checksums(run)
    answer = peml(capsys, "add-task", run, other)
    assert answer.code == 2, answer
    assert said in answer.error
    assert checksums(run) == files


def _other_words(base: Path) -> None:
    """Two words of the vocabulary change places."""
    file = base / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def _more_weights(base: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(base, attention_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.ones_(parameter)
    model.save_pretrained(base)


@pytest.mark.parametrize("change", [_other_words, _more_weights])
def test_a_run_on_a_changed_copy_of_the_model_is_refused(
    tmp_path: Path, capsys: Capture, change: Callable[[Path], None]
) -> None:
    run, base = _first(capsys, tmp_path), tmp_path / "base"
    shutil.copytree(run / "model/backbone", base)
    change(base)
    other = _fit(capsys, _config(tmp_path, base), tmp_path / "other")
    said = peml(capsys, "add-task", run, other)
    assert (said.code, "has other weights" in said.error) == (2, True), said.error


def test_contexts_that_only_some_layers_see_are_refused(tmp_path: Path, capsys: Capture) -> None:
    run = _first(capsys, tmp_path)
    other = _fit(capsys, _config(tmp_path, run / "model/backbone"), tmp_path / "other")
    saved = open_model(other / "model")
    with atomic_folder(saved.folder) as partial:
        kept = shutil.ignore_patterns(MANIFEST, DESCRIPTION)
        shutil.copytree(saved.folder, partial, ignore=kept, dirs_exist_ok=True)
        changed = saved.description.model_copy(update={"contexts_active": (True, False)})
        describe(partial, changed)
    said = peml(capsys, "add-task", run, other)
    assert (said.code, "only some layers see" in said.error) == (2, True), said.error


def test_a_model_with_one_context_for_all_is_refused(tmp_path: Path, capsys: Capture) -> None:
    save_tiny_model("llama", tmp_path / "llama")
    context = {"shots": 2, "scope": "shared"}
    section = {"name": "lora+context", "lora": {"r": 2}, "context": context}
    config = _config(tmp_path, tmp_path / "llama", "hue", 64, method=section)
    run = _fit(capsys, config, tmp_path / "run")
    other = _fit(capsys, _config(tmp_path, run / "model/backbone"), tmp_path / "other")
    files = checksums(run)
    said = peml(capsys, "add-task", run, other)
    assert (said.code, "has one context for all of its tasks" in said.error) == (2, True)
    assert checksums(run) == files


def test_options_for_a_file_are_refused_for_a_run_and_needed_for_a_file(
    tmp_path: Path, capsys: Capture
) -> None:
    run = _first(capsys, tmp_path)
    said = peml(capsys, "add-task", run, run, "--shots", 2)
    assert (said.code, "--shots" in said.error) == (2, True)
    _config(tmp_path, run)
    said = peml(capsys, "add-task", run, tmp_path / "colour.yaml")
    assert (said.code, "--shots is missing" in said.error) == (2, True)
