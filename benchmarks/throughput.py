"""Real tokens per second of PEML's training against Transformers' Trainer with PEFT's LoRA.

Same rows, same rank, same optimizer class, same number of rows in a batch. The Trainer has its
defaults: random batches of mixed rows, padded to the longest. Both train in turn (`race.py`); peak
memory is measured in one process each.

    python benchmarks/throughput.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import (
    CLOCKS,
    Figure,
    at_most,
    benchmark_parser,
    final_genotype,
    load_mixture,
    mixture_name,
    report,
)
from plain import PlainLora
from race import RIVAL, Ours, Rival, race
from transformers import DataCollatorWithPadding

from peml.methods.lora.settings import LoraSettings
from peml.run.cost import peak_memory
from peml.run.preparation import Prepared

TARGET = 2.0
SIDES = {"PEML, lora": "lora", "PEML, peml in search": "peml", "PEML, peml after search": "fixed"}


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The train rows of all tasks, as a Trainer user would hold them."""

    def __init__(self, prepared: Prepared) -> None:
        self.rows = [
            {
                "input_ids": row["input_ids"][0],
                "targets": row["targets"][0],
                "task_ids": task,
                **({"token_type_ids": row["token_type_ids"][0]} if row["token_type_ids"] else {}),
            }
            for task, split in enumerate(prepared.train)
            for row in split.rows
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def mixture(arguments: argparse.Namespace, *overrides: str) -> Prepared:
    """The rows, in batches of the default size."""
    return load_mixture(arguments, f"batches.rows={arguments.rows}", *overrides)


def build_ours(arguments: argparse.Namespace, side: str, total_steps: int) -> Ours:
    """One PEML side, by a value of ``SIDES``: ``fixed`` has the prefix that a search leaves."""
    method = "lora" if side == "lora" else "peml"
    prepared = mixture(arguments, f"method={{name: {method}}}")
    return Ours(prepared, total_steps, final_genotype(prepared) if side == "fixed" else None)


def build_rival(arguments: argparse.Namespace) -> Rival:
    """PEFT's LoRA for the Trainer, with our rank and learning rate."""
    prepared = mixture(arguments)
    lora = LoraSettings()
    options = {"per_device_train_batch_size": arguments.rows, "learning_rate": lora.learning_rate}
    collate = DataCollatorWithPadding(prepared.family.tokenizer)
    model = PlainLora(prepared, r=lora.r, alpha=lora.alpha)
    return Rival(model, Rows(prepared), collate, options)


def measure_rates(arguments: argparse.Namespace) -> list[Figure]:
    """Tokens per second of all sides, interleaved."""
    steps = (arguments.segments + 1) * arguments.steps * arguments.more
    return race(
        {name: build_ours(arguments, side, steps) for name, side in SIDES.items()},
        build_rival(arguments),
        segments=arguments.segments,
        steps=arguments.steps,
        more=arguments.more,
        clock=CLOCKS[arguments.clock],
        target=TARGET,
    )


def measure_memory(arguments: argparse.Namespace, argv: Sequence[str]) -> list[Figure]:
    """Peak resident memory of each side, in a process of its own."""
    peaks = {}
    for name in (RIVAL, *SIDES):
        command = [sys.executable, __file__, *argv, "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[name] = json.loads(done.stdout.splitlines()[-1])["peak"] / 2**20
    figures = [Figure(f"{RIVAL}: peak memory", peaks[RIVAL], "MiB")]
    for name in SIDES:
        figures.append(at_most(f"{name}: peak memory", peaks[name], "MiB", round(peaks[RIVAL])))
    return figures


def peak_of(arguments: argparse.Namespace) -> int:
    """Trains one side alone and returns this process's peak memory in bytes."""
    steps = arguments.memory_steps
    if arguments.only == RIVAL:
        build_rival(arguments).train(steps, steps, CLOCKS["wall"], lambda counted: None)
    else:
        build_ours(arguments, SIDES[arguments.only], steps).train(steps)
    return peak_memory()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch, on both sides")
    parser.add_argument("--steps", type=int, default=5, help="the Trainer's steps in a segment")
    parser.add_argument("--more", type=int, default=2, help="PEML's steps for one of the Trainer's")
    parser.add_argument("--segments", type=int, default=12, help="segments that are counted")
    parser.add_argument("--memory-steps", type=int, default=40, help="steps to find peaks in")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    parser.add_argument("--only", choices=(RIVAL, *SIDES), help=argparse.SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    if arguments.only is not None:
        print(json.dumps({"peak": peak_of(arguments)}))
        return
    figures = [*measure_rates(arguments), *measure_memory(arguments, argv)]
    report(f"Training, {mixture_name(arguments)}", figures, arguments)


if __name__ == "__main__":
    main()
