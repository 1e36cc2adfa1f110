"""The LoRA beside the merged model is an ordinary PEFT adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from peml.methods.attached import AttachedModel
from peml.methods.lora.lora import LoraPart
from peml.methods.lora.settings import LoraSettings
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing import save_tiny_model


def test_peft_alone_loads_the_saved_lora_and_gives_the_same_logits(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    model = TaskModel(load_backbone(ModelSettings(name=str(folder), max_length=32)), [])
    part = LoraPart(model.backbone, LoraSettings(r=4), seed=0)
    for parameter in part.groups()[0].parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(4, 16)[None]
    with torch.no_grad():
        ours = model.backbone.eval()(input_ids=ids).logits
        with part.disabled():
            plain = model.backbone(input_ids=ids).logits

    AttachedModel(model, {part.name: part}).save_parts(tmp_path)
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "lora"
    )
    with torch.no_grad():
        theirs = loaded.eval()(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 1e-2
