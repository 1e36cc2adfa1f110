"""Writes LoRA factors in PEFT's adapter format, which other tools can read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from peml.files import write_tensors

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Path of a layer in the backbone -> B (d_out, rank) and A (rank, d_in), scale included."""


def write_peft_lora(folder: Path, factors: Factors, backbone: Any, base_model: str) -> None:
    """Writes an adapter that ``PeftModel.from_pretrained`` loads; its alpha / r is 1.

    All factors have the same rank; `base_model` names the weights of the backbone, for the config.
    """
    first = next(iter(factors.values()))
    rank = first[1].shape[0]
    transposed = any(isinstance(module, Conv1D) for module in backbone.modules())
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(factors),
        fan_in_fan_out=transposed,
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    tensors = {}
    for name, (up, down) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.float().contiguous()
    write_tensors(folder / "adapter_model.safetensors", tensors)
