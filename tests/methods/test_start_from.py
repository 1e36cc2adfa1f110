"""An adapter that PEFT saved as the start of PEML's own layers, against PEFT's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from peml.errors import ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing import TINY_TASKS, batch_of, save_tiny_model

_CLASSES = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}


def saved(folder: Path, base: str = "bert", **options: Any) -> tuple[Path, Any]:
    """A LoRA as PEFT saves it, its weights moved, and PEFT's model."""
    if not (folder / base).is_dir():
        save_tiny_model(base, folder / base)
    model: Any = _CLASSES[base].from_pretrained(folder / base)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    task = "SEQ_CLS" if base == "bert" else "CAUSAL_LM"
    model = get_peft_model(model, LoraConfig(task_type=task, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder / "adapter")
    return folder / "adapter", model


def attached(folder: Path, base: str = "bert", method: str = "lora", **section: Any) -> Any:
    model = TaskModel(
        load_backbone(ModelSettings(name=str(folder / base), max_length=64)), TINY_TASKS
    )
    settings = parse_method({"name": method, **section})
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=9)
    made: AttachedModel = build_method(settings).attach(model, context).eval()
    return made


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}])
@torch.no_grad()
def test_the_backbone_computes_what_peft_s_does(
    tmp_path: Path, base: str, options: dict[str, Any]
) -> None:
    folder, reference = saved(tmp_path, base, **options)
    method = {"use_dora": "dora", "use_rslora": "rslora"}.get(next(iter(options), ""), "lora")
    model = attached(tmp_path, base, method, r=4, alpha=8)
    ids = torch.arange(5, 17)[None]

    def hidden(backbone: Any) -> torch.Tensor:
        states: torch.Tensor = backbone(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        return states

    wanted = hidden(reference.base_model.model)
    before = hidden(model.base.backbone)
    assert not torch.allclose(before, wanted, atol=1e-3)
    others = model.parts["lora"].start_from(folder)
    torch.testing.assert_close(hidden(model.base.backbone), wanted, atol=1e-5, rtol=1e-5)
    # The tiny BERT's own pooler, which PEML has no use for, is adapted as well.
    assert all("classifier" in name or "pooler" in name for name in others)
    assert bool(others) == (base == "bert")
    if "use_dora" not in options:
        model.merge()  # the weights taken over are the ones that are merged
        torch.testing.assert_close(hidden(model.base.backbone), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 2}, "r of the adapter is 2, and of the method 4"),
        ({"lora_alpha": 16}, "lora_alpha of the adapter is 16"),
        ({"use_rslora": True}, "use_rslora of the adapter is True"),
        ({"bias": "all"}, "bias of the adapter is all"),
        ({"target_modules": ["query"]}, "on other layers: the adapter lacks .*lora_A"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base model"),
    ],
)
def test_an_adapter_that_doesn_t_fit_changes_nothing(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    folder, _ = saved(tmp_path, **options)
    model = attached(tmp_path, r=4, alpha=8)
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    with pytest.raises(ModelError, match=message) as caught:
        model.parts["lora"].start_from(folder)
    assert caught.value.allowed
    assert caught.value.action
    assert all(torch.equal(before[name], v) for name, v in model.trainable_state().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    folder, _ = saved(tmp_path)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "query.lora_B" in name)
    weights[name][0, 0] = value
    save_file(weights, path)
    with pytest.raises(ModelError, match=rf"values in {name} \(one of 1\)"):
        attached(tmp_path, r=4, alpha=8).parts["lora"].start_from(folder)


@pytest.mark.parametrize("whole", ["lm_head", "embed_tokens", "norm", "gate_proj"])
def test_a_layer_that_was_trained_whole_is_no_start(tmp_path: Path, whole: str) -> None:
    layers = ["q_proj", "v_proj"]
    folder, _ = saved(tmp_path, "llama", target_modules=layers, modules_to_save=[whole])
    model = attached(tmp_path, "llama", r=4, alpha=8, target_modules=layers)
    with pytest.raises(ModelError, match=rf"another model\..*{whole}.*weight than the base model"):
        model.parts["lora"].start_from(folder)
    assert all(not value.any() for name, value in model.trainable_state().items() if "_B" in name)


def test_copies_of_frozen_embeddings_are_no_weights_of_the_adapter(tmp_path: Path) -> None:
    layers = ["embed_tokens", "lm_head"]
    folder, _ = saved(tmp_path, "llama", target_modules=layers)
    saved_names = load_file(folder / "adapter_model.safetensors")
    assert any("base_layer" in name for name in saved_names)
    model = attached(tmp_path, "llama", r=4, alpha=8, target_modules=layers)
    assert model.parts["lora"].start_from(folder) == []


def test_layers_that_the_method_leaves_out_are_named(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    model = attached(tmp_path, r=4, alpha=8, target_modules=["query"])
    with pytest.raises(ModelError, match="the method lacks"):
        model.parts["lora"].start_from(folder)


def test_folders_that_can_t_be_read_are_named(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    model = attached(tmp_path, r=4, alpha=8)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "SPELL"}))
    with pytest.raises(ModelError, match=r"adapter_config\.json can't be read"):
        model.parts["lora"].start_from(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        model.parts["lora"].start_from(folder)


def test_ranks_that_were_pruned_are_no_start(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    with pytest.raises(ModelError, match="ranks were pruned"):
        attached(tmp_path, method="adalora").parts["lora"].start_from(folder)
