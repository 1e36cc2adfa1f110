"""Exported decoders: Transformers and PEFT alone answer as the run's model; the rest is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from peml.errors import CheckpointError, InjectionError, PemlError, RunError
from peml.export import export_model, load_model
from peml.files import read_json, read_tensors, verify_manifest, write_tensors
from peml.injection.inject import injection_of
from peml.models.prompt import build_inputs
from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape
from peml.testing import save_tiny_model
from tests.export.trained import run_of

pytestmark = pytest.mark.usefixtures("one_process")

# Keys and values far from the quiet start, so that a key in the wrong place shows.
_LOUD: dict[str, Any] = {
    "network": "flat",
    "start": "text",
    "text": "the old dog sleeps and the young cat runs home to the river",
    "bounded": False,
    "length": 5,
}

_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "peml":
            raise ImportError("this project is not here")

sys.meta_path.insert(0, Absent())
try:
    import peml
except ImportError:
    pass
else:
    raise SystemExit("peml can be imported")

import json
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

inputs, found = load_file(sys.argv[2]), {}
for name, folder in json.loads(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, folder + "/adapter").eval()
    ids = inputs["input_ids"]
    with torch.no_grad():
        found[f"{name} none"] = model(input_ids=ids).logits
        for side in ("left", "right"):
            mask = inputs[side]
            found[f"{name} {side}"] = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        said = model.generate(
            input_ids=ids, attention_mask=inputs["left"], max_new_tokens=8, min_new_tokens=8,
            do_sample=False, use_cache=True, output_logits=True, return_dict_in_generate=True,
        )
    found[f"{name} tokens"] = said.sequences
    found[f"{name} steps"] = torch.stack(said.logits)
save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[3])
"""


def inputs() -> dict[str, Tensor]:
    ids = torch.randint(5, 300, (3, 11), generator=torch.Generator().manual_seed(2))
    left, right = torch.ones_like(ids), torch.ones_like(ids)
    left[1, :4], left[2, :1] = 0, 0
    right[1, 7:] = 0
    return {"input_ids": ids, "left": left, "right": right}


@torch.no_grad()
def answers(model: Any) -> dict[str, Tensor]:
    """Logits and greedy texts, as the script asks for them."""
    given = inputs()
    ids = given["input_ids"]
    found = {"none": model(input_ids=ids).logits}
    for side in ("left", "right"):
        mask = given[side]
        found[side] = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    said = model.generate(
        input_ids=ids,
        attention_mask=given["left"],
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return {**found, "tokens": said.sequences, "steps": torch.stack(said.logits)}


def test_transformers_and_peft_alone_answer_as_the_runs_model(tmp_path: Path) -> None:
    """In a process that can't import this package."""
    save_tiny_model("mistral", tmp_path / "mistral", sliding_window=None)
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    rope["original_max_position_embeddings"] = 64
    save_tiny_model("phi", tmp_path / "phi", rope_parameters=rope)
    families = ("llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "phi", "gpt-neox", "smollm3")
    cases, wanted = {}, {}
    for family in families:
        run, out = run_of(family, "lora+prefix", tmp_path, **_LOUD), tmp_path / f"out-{family}"
        assert export_model(run, out, "peft") == [out, out / "adapter"]
        cases[family] = str(out)
        wanted[family] = answers(load_model(run / "model").backbone)
    write_tensors(tmp_path / "inputs", inputs())
    script = [_ALONE, json.dumps(cases), tmp_path / "inputs", tmp_path / "found"]
    subprocess.run([sys.executable, "-c", *map(str, script)], check=True, timeout=280)
    found = read_tensors(tmp_path / "found")
    for family in families:
        for name, value in wanted[family].items():
            got = found[f"{family} {name}"]
            torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-5, msg=f"{family} {name}")
        with torch.no_grad():
            merged = AutoModelForCausalLM.from_pretrained(cases[family])
            without = merged(input_ids=inputs()["input_ids"]).logits
        assert (without - wanted[family]["none"]).abs().max() > 1e-2, "the prefix does nothing"


@pytest.mark.parametrize("method", ["lora+prefix", "lora+context"])
def test_cartridges_answer_as_the_runs_model_in_peft(tmp_path: Path, method: str) -> None:
    options = _LOUD if method == "lora+prefix" else {}
    run, out = run_of("llama", method, tmp_path, **options), tmp_path / "out"
    folders = export_model(run, out, "cartridge")
    names = ["adapter"] if options else ["mood", "same", "closeness"]
    assert folders == [out, *(out / name for name in names)]
    ours = load_model(run / "model")
    for number, folder in enumerate(folders[1:]):
        ours.routing.one_task(number, ours.device)
        merged = AutoModelForCausalLM.from_pretrained(out)
        model = PeftModel.from_pretrained(merged, folder)
        assert model.peft_config["default"].peft_type == "CARTRIDGE"
        wanted = answers(ours.backbone)
        for name, value in answers(model.eval()).items():
            torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["lora", "prompt-tuning"])
def test_what_has_no_keys_and_values_is_no_cartridge(tmp_path: Path, method: str) -> None:
    run = run_of("llama", method, tmp_path)
    with pytest.raises(RunError, match="trained no prefix and has no contexts"):
        export_model(run, tmp_path / "out", "cartridge")


def test_what_stands_in_the_folder(tmp_path: Path) -> None:
    run = run_of("llama", "lora+prefix", tmp_path, **_LOUD)
    out = tmp_path / "out"
    out.mkdir()
    export_model(run / "model", out, "peft")
    verify_manifest(out, "")
    assert not list(tmp_path.glob(".*partial"))
    config = read_json(out / "adapter" / "adapter_config.json")
    sizes = {"num_virtual_tokens": 5, "num_layers": 2, "token_dim": 16, "num_attention_heads": 2}
    assert {name: config[name] for name in sizes} == sizes
    assert (config["peft_type"], config["task_type"]) == ("PREFIX_TUNING", "CAUSAL_LM")
    assert config["base_model_name_or_path"] == str(out)
    listed = read_json(out / "manifest.json")["sha256"]
    for name in ("adapter/adapter_model.safetensors", "model.safetensors", "README.md"):
        assert name in listed
    text = "the film was good"
    ours = load_model(run / "model").family.tokenizer(text).input_ids
    assert AutoTokenizer.from_pretrained(out)(text).input_ids == ours
    readme = (out / "README.md").read_text()
    for part in ("lora+prefix", "prefix of 5 positions", "`mood`, `same`", "FOLDER/adapter"):
        assert part in readme


def test_values_are_stored_as_they_are_and_keys_turned(tmp_path: Path) -> None:
    run = run_of("llama", "lora+prefix", tmp_path, **_LOUD)
    stored = read_tensors(
        export_model(run, tmp_path / "out", "peft")[1] / "adapter_model.safetensors"
    )
    injection = injection_of(load_model(run / "model").backbone)
    assert injection is not None
    assert injection.prefix is not None
    ours = injection.prefix.tensor.permute(3, 0, 1, 2, 4)  # (length, layers, 2, heads, channels)
    theirs = stored["prompt_embeddings"].view(ours.shape)
    assert torch.equal(theirs[:, :, 1], ours[:, :, 1])
    assert (theirs[:, :, 0] - ours[:, :, 0]).abs().max() > 0.1
    torch.testing.assert_close(theirs[:, :, 0].norm(dim=-1), ours[:, :, 0].norm(dim=-1))


@pytest.mark.parametrize("base", ["llama", "gpt2", "gemma", "mistral"])
def test_a_prompt_is_pefts_prompt_tuning(tmp_path: Path, base: str) -> None:
    """Whatever the positions: with PEFT too, the tokens move up by the prompt's length."""
    run, out = run_of(base, "prompt-tuning", tmp_path, length=4), tmp_path / "out"
    assert export_model(run, out, "peft") == [out, out / "adapter"]
    config = read_json(out / "adapter" / "adapter_config.json")
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", 4)
    readme = (out / "README.md").read_text()
    assert "prompt of 4 vectors" in readme
    assert "pad rows on the right" in readme
    ours = load_model(run / "model")
    ids, mask = inputs()["input_ids"], inputs()["right"]
    merged = AutoModelForCausalLM.from_pretrained(out)
    theirs = PeftModel.from_pretrained(merged, out / "adapter").eval()
    with torch.no_grad():
        wanted = ours.backbone(
            **build_inputs(ours.backbone, _batch(ids, mask), ours.prompt.vectors)
        )
        plain = AutoModelForCausalLM.from_pretrained(out)(input_ids=ids, attention_mask=mask)
        found = theirs(input_ids=ids, attention_mask=mask).logits[:, 4:]
    torch.testing.assert_close(
        found[mask.bool()], wanted.logits[:, 4:][mask.bool()], atol=1e-5, rtol=1e-5
    )
    assert (found - plain.logits)[mask.bool()].abs().max() > 1e-3, "the prompt does nothing"


@pytest.mark.parametrize(
    ("base", "method"),
    [("llama", "lora"), ("gpt2", "lora"), ("llama", "full"), ("mistral", "lora")],
)
def test_without_a_prefix_it_is_the_merged_model(tmp_path: Path, base: str, method: str) -> None:
    """Positions and windows are nobody's concern then."""
    run, out = run_of(base, method, tmp_path), tmp_path / "out"
    assert export_model(run, out, "peft") == [out]
    assert not (out / "adapter").exists()
    assert "PeftModel" not in (out / "README.md").read_text()
    verify_manifest(out, "")
    wanted = answers(load_model(run / "model").backbone)
    for name, value in answers(AutoModelForCausalLM.from_pretrained(out)).items():
        torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=1e-5)
    plain = answers(AutoModelForCausalLM.from_pretrained(tmp_path / base))["none"]
    assert (plain - wanted["none"]).abs().max() > 1e-2


def test_half_precision_is_checked_without_its_rounding(tmp_path: Path) -> None:
    run = run_of("llama", "lora+prefix", tmp_path, dtype="bfloat16", **_LOUD)
    out, adapter = export_model(run, tmp_path / "out", "peft")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    stored = read_tensors(adapter / "adapter_model.safetensors")
    assert stored["prompt_embeddings"].dtype == torch.float32


def test_a_model_that_would_answer_differently_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that nobody turned."""
    run = run_of("llama", "lora+prefix", tmp_path, **_LOUD)
    monkeypatch.setattr("peml.injection.rotation.rotate_keys", lambda model, site, keys, n: keys)
    _refused(RunError, run, tmp_path / "out", ("differs from the run's", "logits differ"))


def test_task_routed_methods_go_to_lora(tmp_path: Path) -> None:
    run = run_of("llama", "mtl-lora", tmp_path)
    _refused(RunError, run, tmp_path / "out", ("'mtl-lora' has separate weights", "--format lora"))


@pytest.mark.parametrize(
    ("base", "method", "options", "said"),
    [
        ("llama", "moe-lora", {"routing": "token"}, ("can't be merged", "depend on the token")),
        ("bert", "lora+prefix", {}, ("family 'encoder'", "decoder-only", "model/ folder")),
        ("bert", "lora", {}, ("family 'encoder'", "--format lora")),
        ("t5", "lora+prefix", {}, ("family 'seq2seq'", "its encoder", "model/ folder")),
    ],
)
def test_what_is_no_merged_decoder_is_refused(
    tmp_path: Path, base: str, method: str, options: dict[str, Any], said: tuple[str, ...]
) -> None:
    run = run_of(base, method, tmp_path, **options)
    _refused(RunError, run, tmp_path / "out", said)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("gpt2", ("positions are not rotary", "models with a rotary position embedding")),
        ("mistral", ("has a sliding window", "would move past", "no sliding window")),
    ],
)
def test_prefixes_that_pefts_cache_would_shift_or_lose_are_refused(
    tmp_path: Path, base: str, said: tuple[str, ...]
) -> None:
    run = run_of(base, "lora+prefix", tmp_path)
    _refused(InjectionError, run, tmp_path / "out", (*said, "model/ folder"))


def test_a_prefix_that_leaves_layers_out_is_refused(tmp_path: Path) -> None:
    genotype = Genotype.fixed_mlp(PrefixShape(2, 2, 8), length=3, width=4)
    genotype = genotype.model_copy(update={"layers": (True, False)})
    genotype.save(tmp_path / "genotype.json")
    search = {"genotype": str(tmp_path / "genotype.json")}
    run = run_of("llama", "peml", tmp_path, search=search)
    said = ("layers.1.self_attn has no prefix", "same length", "layer_gates: false")
    _refused(InjectionError, run, tmp_path / "out", said)


def test_tasks_full_folders_and_unfinished_or_altered_runs_are_refused(tmp_path: Path) -> None:
    run, out = run_of("llama", "lora", tmp_path), tmp_path / "out"
    _refused(
        RunError,
        run,
        out,
        ("--task mood", "is the same for all tasks", "leave --task out"),
        "mood",
    )
    _refused(CheckpointError, tmp_path, out, ("has no finished model", "peml fit"))
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    _refused(RunError, run, out, ("exists and is not empty", "new or an empty folder"))
    assert (out / "mine.txt").read_text() == "mine"
    (run / "model" / "backbone" / "model.safetensors").write_bytes(b"")
    _refused(CheckpointError, run, tmp_path / "other", ("model.safetensors",))


def _batch(ids: Tensor, mask: Tensor) -> Any:
    return SimpleNamespace(input_ids=ids, attention_mask=mask, token_type_ids=None, packed=None)


def _refused(
    kind: type[PemlError], run: Path, out: Path, said: tuple[str, ...], task: str | None = None
) -> None:
    there = out.exists()
    with pytest.raises(kind) as caught:
        export_model(run, out, "peft", task)
    for part in said:
        assert part in str(caught.value)
    assert "Allowed: " in str(caught.value) or kind is CheckpointError
    assert "Next: " in str(caught.value)
    assert out.exists() == there
    assert not list(out.parent.glob(".*partial"))
