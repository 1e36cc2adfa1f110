"""Exported adapters: PEFT alone gives the model's logits; what is no LoRA is refused."""

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
from peft import PeftModel
from torch import Tensor
from transformers import AutoModel

from peml.errors import CheckpointError, PemlError, RunError, TaskError
from peml.export import export_model, load_model
from peml.export.readme import write_readme
from peml.files import read_tensors, verify_manifest, write_tensors
from peml.models import TaskModel
from peml.testing import TINY_ROWS, TINY_TASKS, batch_of, tiny_task_model
from tests.export.trained import run_of

_ALONE = """
import json, sys
import torch, transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

cases, inputs, out = json.loads(sys.argv[1]), load_file(sys.argv[2]), sys.argv[3]
found = {}
for name, (loader, base, folder) in cases.items():
    model = getattr(transformers, loader).from_pretrained(base)
    model = PeftModel.from_pretrained(model, folder).eval()
    batch = dict(inputs)
    if loader == "AutoModelForSeq2SeqLM":
        batch["decoder_input_ids"] = inputs["input_ids"][:, :4]
    with torch.no_grad():
        found[name] = model(**batch)[0].contiguous()
assert not any(module.partition(".")[0] == "peml" for module in sys.modules)
save_file(found, out)
"""


def inputs() -> dict[str, Tensor]:
    ids = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def answers(model: TaskModel, task_id: int) -> Tensor:
    """What the backbone gives for a task: logits, or an encoder's hidden states."""
    batch = inputs()
    if model.family.name == "seq2seq":
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    model.routing.one_task(task_id, torch.device("cpu"))
    with torch.no_grad():
        found: Tensor = model.backbone(**batch)[0]
    return found


def test_peft_alone_gives_each_tasks_logits(tmp_path: Path) -> None:
    """In a process that never imports this package, for layers of every kind of model."""
    exported = [("bert", "mtl-lora"), ("llama", "c-poly"), ("t5", "moe-lora"), ("gpt2", "mtl-lora")]
    cases: dict[str, tuple[str, str, str]] = {}
    wanted: dict[str, Tensor] = {}
    for base, method in [*exported, ("gpt2", "multilora"), ("bert", "lora")]:
        run = run_of(base, method, tmp_path)
        model = load_model(run / "model")
        out = tmp_path / f"{base}-{method}"
        loader, place = model.family.auto_class.__name__, str(tmp_path / base)
        for number, folder in enumerate(export_model(run, out, "lora")):
            cases[f"{base} {method} {number}"] = (loader, place, str(folder))
            wanted[f"{base} {method} {number}"] = answers(model, number)
    assert len(cases) == 3 * len(exported) + 2
    write_tensors(tmp_path / "inputs.safetensors", inputs())
    script = [_ALONE, json.dumps(cases), tmp_path / "inputs.safetensors", tmp_path / "found"]
    subprocess.run([sys.executable, "-c", *map(str, script)], check=True, timeout=200)
    found = read_tensors(tmp_path / "found")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    for base, method in exported:
        one, two = (wanted[f"{base} {method} {number}"] for number in (0, 1))
        assert (one - two).abs().max() > 1e-2, "the tasks' adapters are the same"


def test_the_heads_beside_them_give_the_tasks_scores(tmp_path: Path) -> None:
    run = run_of("bert", "mtl-lora", tmp_path)
    model = load_model(run / "model")
    batch = batch_of(model, [row for row in TINY_ROWS if row[0] == 1])
    with torch.no_grad():
        wanted = model.predict(model(batch), batch, 1)
    (folder,) = export_model(run, tmp_path / "out", "lora", "same")
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "bert"), folder)
    words = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        hidden = loaded(**words, token_type_ids=batch.token_type_ids)[0]
    mask = batch.attention_mask[:, :, None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    head = read_tensors(folder / "heads.safetensors")
    assert head.keys() == {"same.weight", "same.bias"}
    scores = pooled @ head["same.weight"].T + head["same.bias"]
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)


def test_one_task_or_all_and_what_the_folder_says(tmp_path: Path) -> None:
    run = run_of("bert", "c-poly", tmp_path)
    folders = export_model(run, tmp_path / "all", "lora")
    assert [folder.name for folder in folders] == ["mood", "same", "closeness"]
    assert export_model(run / "model", tmp_path / "one", "lora", "same") == [
        tmp_path / "one" / "same"
    ]
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"same", "README.md", "manifest.json"}
    for folder in folders:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tmp_path / "bert")
        assert config["peft_type"] == "LORA"
    text = (tmp_path / "all" / "README.md").read_text()
    for part in ("c-poly", str(tmp_path / "bert"), "AutoModel", "FOLDER/mood", "mean over"):
        assert part in text
    assert "`same`: logits of different, similar, neutral" in text
    assert "`closeness`: the value is `(score + 2) / 4 * 2 + 0`" in text
    verify_manifest(tmp_path / "all", "")


def test_the_base_model_of_a_package_is_loaded_as_the_folder_says(tmp_path: Path) -> None:
    saved: Any = SimpleNamespace(
        description=SimpleNamespace(base_model="minilm"), method_name="lora"
    )
    facts: dict[str, Any] = {"per_task": False, "pooling": "", "tasks": []}
    facts |= {"loader": "AutoModel", "origin": "on the hub"}
    write_readme(tmp_path, "lora", saved, tiny_task_model("bert"), **facts)
    text = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*)model = ", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["base"].config.hidden_size == 384


def test_a_lora_for_all_tasks_is_one_folder_with_all_heads(tmp_path: Path) -> None:
    run = run_of("bert", "lora", tmp_path)
    assert export_model(run, tmp_path / "out", "lora") == [tmp_path / "out"]
    names = {f"{task.name}.{part}" for task in TINY_TASKS for part in ("weight", "bias")}
    assert read_tensors(tmp_path / "out" / "heads.safetensors").keys() == names
    assert "One adapter for all tasks" in (tmp_path / "out" / "README.md").read_text()
    assert (
        not (export_model(run_of("llama", "lora", tmp_path), tmp_path / "text", "lora")[0])
        .joinpath("heads.safetensors")
        .exists()
    )


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (
            "moe-lora",
            {"routing": "token"},
            ("'moe-lora' can't be exported as a LoRA", "depend on the token"),
        ),
        ("lora+prefix", {}, ("a prefix besides its LoRA", "format can't store", "model/")),
        ("prompt-tuning", {}, ("'prompt-tuning' trained no LoRA",)),
        ("full", {}, ("'full' trained no LoRA", "methods whose update is a LoRA")),
        ("frozen", {}, ("'frozen' trained no LoRA",)),
    ],
)
def test_what_is_more_or_other_than_a_lora_is_refused(
    tmp_path: Path, method: str, options: dict[str, Any], said: tuple[str, ...]
) -> None:
    run = run_of("bert", method, tmp_path, **options)
    _refused(RunError, run, tmp_path / "out", said)


@pytest.mark.parametrize("method", ["lora", "multilora", "mtl-lora"])
def test_layers_that_peft_would_take_for_experts_are_refused_by_name(
    tmp_path: Path, method: str
) -> None:
    run = run_of("deepseek-v3", method, tmp_path)
    _refused(RunError, run, tmp_path / "out", ("layers.0.mlp.down_proj", "as experts", "model/"))
    assert not (tmp_path / "out").exists()
    export_model(run_of("qwen2-moe", method, tmp_path), tmp_path / "fits", "lora")


def test_a_part_of_what_peft_takes_for_experts_is_refused(tmp_path: Path) -> None:
    run = run_of("deepseek-v3", "multilora", tmp_path, target_modules=["mlp.gate_proj"])
    _refused(RunError, run, tmp_path / "out", ("PEFT can't load the adapter", "up_proj"))


def test_unknown_tasks_full_folders_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    run, out = run_of("bert", "mtl-lora", tmp_path), tmp_path / "out"
    _refused(TaskError, run, out, ("'moods'", "Did you mean 'mood'?", "same, closeness"), "moods")
    _refused(CheckpointError, tmp_path, out, ("has no finished model", "peml fit"))
    out.mkdir()
    export_model(run, out, "lora", "mood")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    _refused(RunError, run, out, ("exists and is not empty", "new or an empty folder"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (run / "model" / "adapter.safetensors").write_bytes(b"")
    _refused(CheckpointError, run, tmp_path / "other", ("adapter.safetensors",))


def _refused(
    kind: type[PemlError], run: Path, out: Path, said: tuple[str, ...], task: str | None = None
) -> None:
    there = out.exists()
    with pytest.raises(kind) as caught:
        export_model(run, out, "lora", task)
    for part in said:
        assert part in str(caught.value)
    assert out.exists() == there
    assert not list(out.parent.glob(".*partial"))
