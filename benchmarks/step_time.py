"""Time of a training step on the CPU: prefix or supernet and LoRA, against PEFT's LoRA alone.

Each round runs one step (forward, backward, optimizer) of every contender on the same batch, in a
new order; what is compared are medians over rounds.

    python benchmarks/step_time.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from common import (
    CLOCKS,
    Clock,
    Figure,
    at_most,
    benchmark_parser,
    final_genotype,
    load_mixture,
    ratio_of_medians,
    report,
)
from plain import PlainLora

from peml.data.batch import TaskBatch
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.lora.lora import Lora
from peml.methods.lora.settings import LoraMethodSettings, LoraSettings
from peml.methods.peml import Peml
from peml.methods.settings import PemlSettings
from peml.models import TaskModel, load_backbone
from peml.run.preparation import Prepared
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings

TARGETS = {"LoRA + prefix": 1.05, "LoRA + supernet": 1.10}
SEARCH_STEPS = 1_000_000  # the search's middle lasts as long as anyone measures

Step = Callable[[TaskBatch], None]


def attached(prepared: Prepared, kind: str, batch: TaskBatch) -> AttachedModel:
    """The model of one contender, as a run would attach it."""
    base = TaskModel(load_backbone(prepared.config.model, prepared.family), prepared.tasks)
    genotype = final_genotype(prepared) if kind == "LoRA + prefix" else None
    context = AttachContext(seed=0, calibrate=lambda: base(batch), genotype=genotype)
    if kind == "LoRA":
        return Lora(LoraMethodSettings()).attach(base, context)
    return Peml(PemlSettings()).attach(base, context)


def peml_step(prepared: Prepared, kind: str, batch: TaskBatch, precision: str) -> Step:
    """A step of a PEML model of one contender."""
    return model_step(attached(prepared, kind, batch), precision)


def model_step(model: AttachedModel, precision: str) -> Step:
    """A step of a PEML model; in a search it begins with drawing the decisions' weights."""
    model.train()
    optimizer = build_optimizer(model.groups(), TrainingSettings())
    search = model.search
    if search is not None:
        search.begin(SEARCH_STEPS)
    steps = 0

    trained = training_step(lambda batch: model(batch).loss, optimizer, precision)

    def step(batch: TaskBatch) -> None:
        nonlocal steps
        if search is not None:
            search.before_step(SEARCH_STEPS // 2 + steps)
        steps += 1
        trained(batch)

    return step


def plain_step(prepared: Prepared, precision: str, settings: LoraSettings) -> Step:
    """A step of PEFT's LoRA alone."""
    model = PlainLora(prepared, r=settings.r, alpha=settings.alpha).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, fused=True)

    def loss(batch: TaskBatch) -> Any:
        inputs = (batch.input_ids, batch.attention_mask, batch.targets, batch.task_ids)
        return model(*inputs, batch.token_type_ids).loss

    return training_step(loss, optimizer, precision)


def training_step(
    loss_of: Callable[[TaskBatch], Any], optimizer: torch.optim.Optimizer, precision: str
) -> Step:
    """Forward, backward, optimizer."""

    def step(batch: TaskBatch) -> None:
        with cast_to(precision, batch.input_ids.device.type):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def cast_to(precision: str, device: str) -> AbstractContextManager[Any]:
    """Autocast to bf16, or nothing."""
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def full_batch(prepared: Prepared, rows: int, length: int) -> TaskBatch:
    """A batch without padding, of random tokens of one classification task."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = len(prepared.family.tokenizer)
    return TaskBatch(
        input_ids=torch.randint(10, vocabulary, (rows, length), generator=draw),
        attention_mask=torch.ones(rows, length, dtype=torch.long),
        targets=torch.zeros(rows),
        task_ids=torch.zeros(rows, dtype=torch.long),
        groups=torch.arange(rows),
        rows=torch.arange(rows),
        token_type_ids=torch.zeros(rows, length, dtype=torch.long),
    )


def bucket_batch(prepared: Prepared) -> TaskBatch:
    """The training batch whose padding is the mean of an epoch's, so neither best nor worst."""
    mean = prepared.stream.padding(0)
    batches = [prepared.stream.fetch(planned) for planned in prepared.stream.plan(0)]
    return min(batches, key=lambda b: abs(1 - b.tokens / b.attention_mask.numel() - mean))


def time_rounds(
    steps: dict[str, Step], batch: TaskBatch, rounds: int, warmup: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of every contender's step in every round."""
    order = random.Random(0)
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        order.shuffle(names)
        for name in names:
            since = clock()
            steps[name](batch)
            if number >= warmup:
                seconds[name].append(clock() - since)
    return seconds


def measure(prepared: Prepared, arguments: argparse.Namespace, precision: str) -> list[Figure]:
    """Ratios for a full batch and for a padded one of the mixture."""
    batches = {
        f"{arguments.rows} x {arguments.length} tokens": full_batch(
            prepared, arguments.rows, arguments.length
        )
    }
    padded = bucket_batch(prepared)
    rows, length = padded.input_ids.shape
    batches[f"{rows} x {length} tokens, padded"] = padded
    figures = []
    for name, batch in batches.items():
        plain = plain_step(prepared, precision, LoraMethodSettings())
        kinds = ("LoRA", *TARGETS)
        steps = {kind: peml_step(prepared, kind, batch, precision) for kind in kinds}
        seconds = time_rounds(
            {"PEFT": plain, **steps}, batch, arguments.rounds, 2, CLOCKS[arguments.clock]
        )
        for kind in kinds:
            ratio = ratio_of_medians(seconds[kind], seconds["PEFT"])
            label = f"{kind} / PEFT LoRA, {name}, {precision}"
            # The batch without padding in float32 is the one that targets were set for.
            target = TARGETS.get(kind) if precision == "fp32" else None
            unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
            figures.append(
                Figure(label, ratio.value, unit)
                if target is None
                else at_most(label, ratio.value, unit, target)
            )
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=32, help="rows of the full batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of its rows")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each contender")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument(
        "--clock",
        default="wall",
        choices=list(CLOCKS),
        help="cpu counts the process's own time: for a machine that isn't idle",
    )
    arguments = parser.parse_args(argv)
    prepared = load_mixture(arguments, "batches.rows=32")
    figures = [f for p in arguments.precisions for f in measure(prepared, arguments, p)]
    report("Training step against PEFT LoRA alone", figures, arguments)


if __name__ == "__main__":
    main()
