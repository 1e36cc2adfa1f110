"""Memory and GPU-hours of the configs beside this file, from their settings; see README.md.

python examples/paper/estimate.py [CONFIG ...]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from peml.config import RunConfig, load_config
from peml.methods import PemlSettings

FLOPS = 312e12
"""Of an A100 in bfloat16, a second."""
UTILISATION = 0.4
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What a model's config says, and its parameters."""

    parameters: float
    layers: int
    channels: int
    inner: int
    vocabulary: int
    matrices: tuple[tuple[int, int, int], ...]
    """(number, inputs, outputs) of the linear layers that a LoRA is put on."""


def _t5(parameters: float, inner: int, matrices: int) -> Shape:
    attention = (24 * 4 + 24 * 8, 1024, 1024)
    return Shape(parameters, 48, 1024, inner, 32128, (attention, (48 * matrices, 1024, inner)))


_LLAMA = Shape(6.74e9, 32, 4096, 11008, 32000, ((32 * 4, 4096, 4096), (32 * 3, 4096, 11008)))
SHAPES = {
    "google-t5/t5-large": _t5(0.738e9, 4096, 2),
    "google/flan-t5-large": _t5(0.783e9, 2816, 3),
    "huggyllama/llama-7b": _LLAMA,
    "meta-llama/Llama-2-7b-hf": _LLAMA,
}

# Train rows of each task as the benchmarks publish them.
ROWS = {
    "glue": (8551, 67349, 3668, 363846, 5749, 392702, 104743, 2490, 635),
    "superglue": (9427, 250, 400, 27243, 100730, 2490, 5428, 554),
    "mmlu": (5,) * 57,
    "commonsense": (9427, 16113, 33410, 39905, 40398, 2251, 1119, 4957),
}
TOKENS = {"glue": 60, "superglue": 200, "mmlu": 150, "commonsense": 80}
"""Assumed mean of a row, padding included."""


def trained(config: RunConfig, shape: Shape) -> float:
    """Trainable parameters: the LoRA, and the low-rank head, nearly all of the prefix network."""
    method = config.method
    assert isinstance(method, PemlSettings)
    lora = sum(n * method.lora.r * (ins + outs) for n, ins, outs in shape.matrices)
    return lora + method.prefix.head_rank * shape.layers * 2 * shape.channels


def memory(config: RunConfig) -> float:
    """GiB of the largest step."""
    shape, tokens = SHAPES[config.model.name], config.batches.tokens
    weights = 2 * shape.parameters
    training = 16 * trained(config, shape)
    kept = 2 * tokens * shape.channels * shape.layers
    layer = 2 * tokens * (8 * shape.channels + 4 * shape.inner)
    logits = 3 * 4 * tokens * shape.vocabulary
    return (weights + training + kept + layer + logits) * 1.1 / GIB + 1


def hours(config: RunConfig) -> float:
    """Hours on one A100."""
    shape, suite = SHAPES[config.model.name], str(config.tasks.suite)
    cap = config.tasks.rows or max(ROWS[suite])
    rows = sum(min(count, cap) for count in ROWS[suite]) * config.training.epochs
    work = 6 * shape.parameters * rows * TOKENS[suite]
    return work / (FLOPS * UTILISATION) / 3600


def expected(path: Path) -> str:
    """The line that stands in a config."""
    config = load_config(path)
    figures = f"{memory(config):.0f} GiB, {hours(config):.1g} GPU-hours of training"
    return f"# Expected on one A100: {figures}"


def main(arguments: list[str]) -> None:
    """Prints the line of each config."""
    paths = [Path(a) for a in arguments] or sorted(Path(__file__).parent.glob("*.yaml"))
    for path in paths:
        sys.stdout.write(f"{path.name}: {expected(path)[2:]}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
