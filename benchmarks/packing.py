"""A training step with packed rows against the same rows padded.

Both sides take the same step (a LoRA of rank 8 on all linear layers) on the same rows, cut into
batches of 1,024 tokens. Three kinds of rows: `little` have 58 to 64 tokens, as batches that are
sorted by length, `mixed` 8 to 128 tokens, unsorted, and `long` 256 to 512 tokens.

    python benchmarks/packing.py [--model smollm2] [--dtype bfloat16] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from answer_logits import VOCABULARY, attach_lora
from common import CLOCKS, Figure, at_least, at_most, plain_parser, ratio_of_medians, report
from transformers import LlamaConfig

from peml.data import Collator, TaskBatch
from peml.injection.packing import enable_packing
from peml.methods.attached import AttachedModel

ANSWER = 3  # tokens
SHAPES = {
    "minilm": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    | {"num_attention_heads": 12, "num_key_value_heads": 12},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3},
}
ROWS = {"little": (58, 64), "mixed": (8, 128), "long": (256, 512)}


def build(model: str, dtype: str) -> AttachedModel:
    """A random Llama of a known model's size, with its LoRA, that takes packed rows."""
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SHAPES[model])
    attached = attach_lora(config, dtype)
    enable_packing(attached.base.backbone, max(longest for _, longest in ROWS.values()))
    return attached


def draw_batch(shortest: int, longest: int, tokens: int) -> TaskBatch:
    """Random rows within a budget of tokens, padding included."""
    rng = np.random.default_rng(0)
    count = max(2, tokens // longest)
    ids = [
        rng.integers(10, VOCABULARY, length).tolist()
        for length in rng.integers(shortest, longest, count, endpoint=True)
    ]
    columns = {
        "input_ids": [[row] for row in ids],
        "labels": [[[-100] * (len(row) - ANSWER) + row[-ANSWER:]] for row in ids],
        "token_type_ids": [[] for _ in ids],
        "targets": [[1.0] for _ in ids],
    }
    return Collator(0, packs=True)(columns, [0] * count, np.arange(count))


def measure(model: AttachedModel, kind: str, arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of a forward and a backward pass on both sides, interleaved."""
    packed = draw_batch(*ROWS[kind], arguments.tokens)
    sides = {"padded": replace(packed, packed=None), "packed": packed}
    clock = CLOCKS[arguments.clock]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses = {}
    for _ in range(arguments.rounds + 1):
        for name, batch in sides.items():
            since = clock()
            loss = model(batch).loss
            loss.backward()
            seconds[name].append(clock() - since)
            losses[name] = float(loss.detach())
            model.zero_grad()
    ratio = ratio_of_medians(seconds["padded"][1:], seconds["packed"][1:])
    padding = 1 - packed.tokens / packed.input_ids.numel()
    unit = f"ratio, 95 % in [{ratio.low:.2f}, {ratio.high:.2f}]"
    difference = abs(losses["packed"] - losses["padded"])
    name = f"{kind}, {padding:.0%} padding"
    return [
        at_least(f"{name}: tokens per second, packed / padded", ratio.value, unit, 1.0),
        at_most(f"{name}: difference of the losses", difference, "nats", 1e-5)
        if arguments.dtype == "float32"
        else Figure(f"{name}: difference of the losses", difference, "nats"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--model", default="minilm", choices=list(SHAPES), help="whose size")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a batch")
    parser.add_argument("--rounds", type=int, default=8, help="rounds that are counted")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    arguments = parser.parse_args(argv)
    model = build(arguments.model, arguments.dtype)
    figures = [figure for kind in ROWS for figure in measure(model, kind, arguments)]
    report(f"Packed rows, {arguments.model}, {arguments.dtype}", figures, arguments)


if __name__ == "__main__":
    main()
