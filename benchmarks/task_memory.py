"""Memory and time of a training step when the tasks become many, methods at LoRA's parameters.

Every figure comes from a process of its own. A step's memory is what the process's peak rises by
while it trains, weights and libraries left out. The allocator is told to give large blocks back at
once: with its usual habits the same step differs by several per cent from process to process. A
step's time is the least of all steps' CPU time.

    python benchmarks/task_memory.py [--few N] [--many N] [--methods NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import Figure, at_most, plain_parser, report

from peml.data import TaskBatch
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.models import ModelSettings, TaskModel, TextFamily, load_backbone
from peml.run.cost import peak_memory
from peml.tasks import load_suite
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"name": "lora", "lora": {"r": 16, "alpha": 32}},
    "PEML, searching": {"name": "peml", "lora": {"r": 16, "alpha": 32}},
    "MTL-LoRA": {"name": "mtl-lora"},
    "MultiLoRA": {"name": "multilora"},
    "C-Poly": {"name": "c-poly"},
    "C-Poly, diagonal": {"name": "c-poly", "own_matrix": "diagonal"},
    "MoE-LoRA": {"name": "moe-lora"},
    "MoE-LoRA, token-routed": {"name": "moe-lora", "routing": "token"},
}
FLAT = ("LoRA", "PEML, searching")
"""Methods of which nothing may grow with the tasks."""

ROWS, LENGTH, STEPS = 32, 64, 6
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc's settings: blocks from 64 KiB are mapped, and unmapped when they are freed."""
SEARCH_STEPS = 1000


def measure_step(name: str, tasks: int, model: str) -> tuple[int, float]:
    """Bytes that the steps of one method take, and seconds; run in a fresh process."""
    template = next(task for task in load_suite("demo").tasks if len(task.labels) == 2)
    listed = [template.model_copy(update={"name": f"task{n}"}) for n in range(tasks)]
    base = TaskModel(load_backbone(ModelSettings(name=model)), listed)
    batch = random_batch(base, tasks)
    method = build_method(parse_method(METHODS[name]))
    if name not in FLAT:
        shape = read_shape(base)
        reference = build_method(parse_method(METHODS["LoRA"])).count_parameters(shape)
        sized = method.resized(shape, sum(reference.values()))
        assert sized is not None
        method = build_method(sized)
    context = AttachContext(seed=0, calibrate=lambda: base(batch))
    attached = method.attach(base, context).train()
    optimizer = build_optimizer(attached.groups(), TrainingSettings())
    if attached.search is not None:
        attached.search.begin(SEARCH_STEPS)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_memory()
    seconds = []
    for step in range(STEPS):
        begun = time.process_time()
        if attached.search is not None:
            attached.search.before_step(SEARCH_STEPS // 2 + step)
        attached(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - begun)
    return peak_memory() - before, min(seconds)


def random_batch(base: TaskModel, tasks: int) -> TaskBatch:
    """Random tokens, the rows dealt out to the tasks."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, len(base.family.tokenizer), (ROWS, LENGTH), generator=draw)
    labels = torch.where(torch.arange(LENGTH) < LENGTH - 2, -100, ids)  # answers of two tokens
    return TaskBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels if isinstance(base.family, TextFamily) else None,
        targets=torch.zeros(ROWS),
        task_ids=torch.arange(ROWS) * tasks // ROWS,
        groups=torch.arange(ROWS),
        rows=torch.arange(ROWS),
        token_type_ids=torch.zeros_like(ids),
    )


def in_fresh_process(name: str, tasks: int, model: str) -> tuple[int, float]:
    """`measure_step`, out of reach of what earlier measurements left in memory."""
    command = [sys.executable, __file__, "--only", name, "--tasks", str(tasks), "--model", model]
    environment = os.environ | ALLOCATOR
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    size, seconds = run.stdout.split()
    return int(size), float(seconds)


def compare(arguments: argparse.Namespace) -> list[Figure]:
    """Growth of every method's step from few tasks to many."""
    few, many = arguments.few, arguments.many
    figures: list[Figure] = []
    reference: int | None = None
    for name in arguments.methods:
        pairs = [in_fresh_process(name, n, arguments.model) for n in (few, many)]
        (small, before), (large, after) = pairs
        label, unit = f"{name}: step with {many} tasks / with {few}", "ratio"
        flat = name in FLAT
        ratio = large / small
        figures.append(at_most(label, ratio, unit, 1.02) if flat else Figure(label, ratio, unit))
        figures.append(Figure(f"{name}: its CPU time", after / before, unit))
        reference = reference or small
        label = f"{name}: step with {few} tasks / {arguments.methods[0]}'s"
        figures.append(Figure(label, small / reference, unit))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--model", default="minilm", help="default: minilm")
    parser.add_argument("--few", type=int, default=4, help="fewest tasks")
    parser.add_argument("--many", type=int, default=64, help="most tasks")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--only", choices=list(METHODS), help="measure one and print its bytes")
    parser.add_argument("--tasks", type=int, default=4, help="tasks with --only")
    arguments = parser.parse_args(argv)
    if arguments.only is not None:
        print(*measure_step(arguments.only, arguments.tasks, arguments.model))
        return
    report("Memory of a training step and the number of tasks", compare(arguments), arguments)


if __name__ == "__main__":
    main()
