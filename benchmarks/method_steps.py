"""Time of a training step of each multi-task method, against PEFT's LoRA of equal parameters.

Each round runs one step (forward, backward, optimizer) of every contender on the same batch of
mixed tasks, in a new order; what is compared are medians over rounds.

    python benchmarks/method_steps.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from common import CLOCKS, Figure, at_most, benchmark_parser, load_mixture, ratio_of_medians, report
from step_time import Step, bucket_batch, full_batch, plain_step, time_rounds, training_step

from peml.data import TaskBatch
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.lora import Lora
from peml.methods.lora.settings import LoraMethodSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.models import TaskModel, load_backbone
from peml.run.preparation import Prepared
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings

METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "LoRA": ({"name": "lora"}, 1.3),
    "MTL-LoRA": ({"name": "mtl-lora"}, 1.3),
    "MultiLoRA": ({"name": "multilora"}, 1.8),
    "C-Poly": ({"name": "c-poly"}, 1.3),
    "C-Poly, diagonal": ({"name": "c-poly", "own_matrix": "diagonal"}, 1.3),
    "C-Poly, factors": ({"name": "c-poly", "mixing": "factors"}, 1.3),
    "MoE-LoRA": ({"name": "moe-lora"}, 1.8),
    "MoE-LoRA, gate per layer": ({"name": "moe-lora", "gate": "per-layer"}, 1.8),
    "MoE-LoRA, token-routed": ({"name": "moe-lora", "routing": "token"}, 1.8),
}
"""Name: the method's section, and the ratio it may reach."""

PEFT = LoraMethodSettings(r=16, alpha=32)
"""The rival, which sets the size."""


def matched_settings(prepared: Prepared) -> tuple[int, dict[str, MethodSettings]]:
    """The budget of PEFT's LoRA, and each method at the size nearest to it."""
    base = TaskModel(load_backbone(prepared.config.model, prepared.family), prepared.tasks)
    shape = read_shape(base)
    reference = Lora(PEFT)
    budget = sum(reference.count_parameters(shape).values())
    resized: dict[str, MethodSettings] = {}
    for name, (section, _) in METHODS.items():
        settings = build_method(parse_method(section)).resized(shape, budget)
        assert settings is not None
        resized[name] = settings
    return budget, resized


def method_step(prepared: Prepared, settings: MethodSettings, precision: str) -> Step:
    """A training step of one method, as a run would make it."""
    base = TaskModel(load_backbone(prepared.config.model, prepared.family), prepared.tasks)
    context = AttachContext(seed=0, calibrate=lambda: None)
    model = build_method(settings).attach(base, context).train()
    optimizer = build_optimizer(model.groups(), TrainingSettings())

    return training_step(lambda batch: model(batch).loss, optimizer, precision)


def mixed(batch: TaskBatch, tasks: int) -> TaskBatch:
    """The same tokens, the rows dealt out to all tasks."""
    ids = torch.arange(len(batch.task_ids)) % tasks
    return dataclasses.replace(batch, task_ids=ids)


def measure(
    prepared: Prepared,
    arguments: argparse.Namespace,
    precision: str,
    settings: Mapping[str, MethodSettings],
) -> list[Figure]:
    """Ratios for a full batch of mixed tasks and for a padded one of the mixture."""
    full = full_batch(prepared, arguments.rows, arguments.length)
    padded = bucket_batch(prepared)
    batches = {
        f"{arguments.rows} x {arguments.length} tokens": mixed(full, len(prepared.tasks)),
        f"{padded.input_ids.shape[0]} x {padded.input_ids.shape[1]} tokens, padded": padded,
    }
    figures = []
    for shown, batch in batches.items():
        steps = {"PEFT": plain_step(prepared, precision, PEFT)} | {
            name: method_step(prepared, section, precision) for name, section in settings.items()
        }
        seconds = time_rounds(steps, batch, arguments.rounds, 2, CLOCKS[arguments.clock])
        for name in settings:
            ratio = ratio_of_medians(seconds[name], seconds["PEFT"])
            unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
            label = f"{name} / PEFT LoRA, {shown}, {precision}"
            figures.append(at_most(label, ratio.value, unit, METHODS[name][1]))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=32, help="rows of the full batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of its rows")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each contender")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    arguments = parser.parse_args(argv)
    prepared = load_mixture(arguments, "batches.rows=32")
    budget, settings = matched_settings(prepared)
    figures = [f for p in arguments.precisions for f in measure(prepared, arguments, p, settings)]
    report(f"Training step against PEFT LoRA of {budget:,} parameters", figures, arguments)


if __name__ == "__main__":
    main()
