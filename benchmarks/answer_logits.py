"""A training step with logits at the answer's tokens alone, against logits at every token.

The model has SmolLM2-135M's shape (30 layers, 576 channels, 49,152 tokens) and random weights, with
a LoRA of rank 8 on all linear layers; rows have three answer tokens, or more with `--answer`: many
are computed in chunks. Both sides take the same step. Memory is what a fresh process's peak rises
by in a step.

    python benchmarks/answer_logits.py [--dtype bfloat16] [--answer 63] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from common import CLOCKS, Figure, at_least, at_most, plain_parser, ratio_of_medians, report
from option_scoring import ALLOCATOR
from transformers import LlamaConfig, LlamaForCausalLM

from peml.data.batch import TaskBatch
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import Backbone, ModelSettings, TaskModel
from peml.run.cost import peak_memory
from peml.testing import TINY_TASKS
from peml.testing.tasks import tiny_family

VOCABULARY = 49_152


def build(layers: int, dtype: str) -> AttachedModel:
    """The model with its LoRA."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return attach_lora(config, dtype)


def attach_lora(config: LlamaConfig, dtype: str) -> AttachedModel:
    """A random Llama with a LoRA, in training mode."""
    model = LlamaForCausalLM(config).requires_grad_(False).to(getattr(torch, dtype))
    settings = ModelSettings(name="random-llama")
    base = TaskModel(Backbone(model, tiny_family("llama", max_length=512), settings), TINY_TASKS)
    method = build_method(parse_method({"name": "lora"}))
    return method.attach(base, AttachContext(0, lambda: None)).train()


def draw_batch(rows: int, length: int, answer: int) -> TaskBatch:
    """Random rows of one length, whose last tokens are the answer."""
    ids = torch.randint(10, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    numbers = torch.arange(rows)
    return TaskBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        targets=torch.ones(rows),
        task_ids=torch.zeros_like(numbers),
        groups=numbers,
        rows=numbers,
        labels=labels,
    )


def step(model: AttachedModel, batch: TaskBatch, everywhere: bool) -> float:
    """A forward and a backward pass; returns the loss."""
    model.base.family.logits_everywhere = everywhere
    loss = model(batch).loss
    loss.backward()
    model.zero_grad()
    return float(loss.detach())


def memory_of(everywhere: bool, arguments: argparse.Namespace) -> int:
    """Bytes a process's peak rises by in a step; run in a fresh one."""
    model = build(arguments.layers, arguments.dtype)
    step(model, draw_batch(1, 4, 2), everywhere)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_memory()
    step(model, draw_batch(arguments.rows, arguments.length, arguments.answer), everywhere)
    return peak_memory() - before


def in_fresh_process(everywhere: bool, arguments: argparse.Namespace) -> int:
    """`memory_of`, out of reach of what was measured before."""
    command = [sys.executable, __file__, "--memory-of", str(int(everywhere))]
    for name in ("rows", "length", "answer", "layers", "dtype"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | ALLOCATOR
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(run.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of a forward and a backward pass on both sides, interleaved."""
    model = build(arguments.layers, arguments.dtype)
    batch = draw_batch(arguments.rows, arguments.length, arguments.answer)
    clock = CLOCKS[arguments.clock]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    losses = {}
    for _ in range(arguments.rounds + 1):
        for everywhere, series in seconds.items():
            since = clock()
            losses[everywhere] = step(model, batch, everywhere)
            series.append(clock() - since)
    whole, chosen = seconds[True][1:], seconds[False][1:]  # the first round warms up
    ratio = ratio_of_medians(whole, chosen)
    unit = f"ratio, 95 % in [{ratio.low:.2f}, {ratio.high:.2f}]"
    figures = [
        at_least("tokens per second, answers alone / every token", ratio.value, unit, 1.0),
        Figure("difference of the losses", abs(losses[True] - losses[False]), "nats"),
    ]
    if arguments.memory:
        theirs, ours = (in_fresh_process(everywhere, arguments) for everywhere in (True, False))
        name = f"peak memory, answers alone / every token ({theirs / 2**20:.0f} MiB)"
        figures.append(at_most(name, ours / theirs, "ratio", 1.0))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--answer", type=int, default=3, help="tokens of an answer")
    parser.add_argument("--layers", type=int, default=30, help="layers of the model")
    parser.add_argument("--rounds", type=int, default=8, help="rounds that are counted")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it (Linux)"
    )
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory_of is not None:
        print(memory_of(bool(arguments.memory_of), arguments))
        return
    report(f"Logits at the answer, {arguments.dtype}", measure(arguments), arguments)


if __name__ == "__main__":
    main()
