"""What the injection tests share: fixed inputs and prefixes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peml.injection.inject import PrefixInjection
from peml.prefix.prefix import Prefix
from peml.prefix.shape import PrefixShape

SEQ2SEQ = ("t5", "bart")
CAUSAL = ("llama", "mistral", "gpt2", "qwen3")
SUPPORTED = (
    *("bert", "roberta", "electra", "distilbert", "t5", "bart"),
    *("llama", "mistral", "qwen3", "phi", "gpt2", "opt", "gpt-neox"),
)


def token_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 300, (rows, length), generator=generator)


def inputs_for(family: str, rows: int = 2, length: int = 12) -> dict[str, Any]:
    """Right-padded inputs, with a shorter decoder side where the model has one."""
    ids = token_ids(rows, length)
    mask = torch.ones_like(ids)
    mask[1:, length - 4 :] = 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if family in SEQ2SEQ:
        inputs["decoder_input_ids"] = token_ids(rows, 5, seed=1)
    return inputs


def random_prefix(
    shape: PrefixShape, length: int = 4, seed: int = 0, active: tuple[bool, ...] | None = None
) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    size = (shape.layers, 2, shape.kv_heads, length, shape.head_dim)
    return Prefix(torch.randn(size, generator=generator), active or (True,) * shape.layers)


def with_random_prefix(injection: PrefixInjection, length: int = 4, seed: int = 0) -> Prefix:
    prefix = random_prefix(injection.shape, length, seed)
    injection.set(prefix)
    return prefix


def real(output: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Rows of the output at real tokens; what padded positions hold means nothing."""
    mask = inputs["attention_mask"].bool()
    return output[mask] if output.shape[:2] == mask.shape else output
