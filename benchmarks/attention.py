"""A LoRA's training step on a CPU with PEML's attention against the same step with torch's.

Random models of known sizes, LoRA of rank 8 on all linear layers, bf16 autocast. The sides take
turns, on the same batch; a quarter of every third row is padding.

    OMP_NUM_THREADS=1 python benchmarks/attention.py [--clock cpu] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from common import CLOCKS, Figure, plain_parser, ratio_of_medians, report
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, LlamaConfig

from peml.injection.probe import unwrap
from peml.injection.training import fast_attention

_HEADS: dict[str, Any] = {"num_attention_heads": 9, "num_key_value_heads": 3}
MODELS = {
    "MiniLM's size": BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6),
    "SmolLM2's size": LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, vocab_size=1000, **_HEADS
    ),
}
BATCHES = ((16, 32), (16, 128))


def build(config: Any) -> nn.Module:
    """A random frozen model in bfloat16 with a LoRA in float32."""
    model = AutoModel.from_config(config, dtype=torch.bfloat16)
    tuned: nn.Module = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    return tuned.train()


def step(model: nn.Module, ids: Tensor, mask: Tensor) -> None:
    """One forward and backward pass."""
    with torch.autocast("cpu", torch.bfloat16):
        states = unwrap(model)(input_ids=ids, attention_mask=mask).last_hidden_state
    states.float().square().mean().backward()
    model.zero_grad(set_to_none=True)


def measure(name: str, rows: int, length: int, arguments: argparse.Namespace) -> list[Figure]:
    """The ratio of the two steps' seconds."""
    torch.manual_seed(0)
    model = build(MODELS[name])
    ids = torch.randint(10, 1000, (rows, length))
    mask = torch.ones_like(ids)
    mask[::3, -length // 4 :] = 0
    clock = CLOCKS[arguments.clock]
    sides: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "torch": nullcontext,
        "peml": lambda: fast_attention(model),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds + 1):
        for side, attention in sides.items():
            with attention():
                since = clock()
                step(model, ids, mask)
                seconds[side].append(clock() - since)
    ratio = ratio_of_medians(seconds["torch"][1:], seconds["peml"][1:])
    return [
        Figure(f"{name}, {rows} x {length} tokens: torch's step over PEML's", ratio.value, "x"),
        Figure("  lower end of its interval", ratio.low, "x"),
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = plain_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args(given)
    figures = [f for name in MODELS for size in BATCHES for f in measure(name, *size, arguments)]
    report("attention", figures, arguments)


if __name__ == "__main__":
    main()
