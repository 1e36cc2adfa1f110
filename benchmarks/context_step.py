"""A training step whose rows see a context of 500 positions, against our own LoRA's step.

Rows of four tasks are mixed in a batch, each task with a context of its own. Sides take the same
batch in turn: `lora`; `lora+context` with keys and values of the frozen and of the adapted model;
the naive way, a copy of the context in front of every row's keys (`copied`); contexts of the frozen
model of which a few rows see another, without their own demonstration (`exact`, for
`leave_one_out: exact`); contexts with keys and values trained on top (`corrected`); `peml` with a
fixed network on them (`network`); and LoRA with as many tokens in front of every row (`prompt`).

    python benchmarks/context_step.py [--model smollm2] [--sides frozen exact] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import cast

import torch
from common import CLOCKS, Figure, at_most, plain_parser, ratio_of_medians, report
from torch import Tensor

from peml.data.batch import TaskBatch
from peml.data.solved import SolvedRows
from peml.injection import inject
from peml.injection.shared import Shared, attend_shared
from peml.injection.training import fast_attention
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.tasks import Shots, load_suite
from peml.testing import tiny_task_model

TASKS = ("sst2", "mrpc", "qnli", "rte")
SIDES = ("frozen", "adapted", "copied", "exact", "corrected", "network", "prompt")
BARE = ("lora", "prompt")
_SHOTS = 10


class ShownRows:
    """Says that the first rows of a batch are demonstrations of their task's context."""

    def __init__(self, count: int) -> None:
        self._count = count

    def unseen(self, task: int) -> dict[int, tuple[int, ...]]:
        """As `SolvedRows.unseen`, for two labels."""
        rows = range(task, self._count, len(TASKS))
        return {row: (place % _SHOTS, (place + 1) % _SHOTS) for place, row in enumerate(rows)}


def load_base(arguments: argparse.Namespace, *, held: bool) -> TaskModel:
    """The frozen model; its tasks have contexts where these are held."""
    tasks = [task for task in load_suite("glue").tasks if task.name in TASKS]
    if held:
        text = "the film was good. " * (arguments.positions // (5 * _SHOTS))
        shown = {"context": True, "shots": Shots(examples=(text.strip(),) * _SHOTS)}
        tasks = [task.model_copy(update=shown) for task in tasks]
    if arguments.model == "tiny":
        base = tiny_task_model("llama", tasks, max_position_embeddings=2048)
    else:
        base = TaskModel(load_backbone(ModelSettings(name=arguments.model)), tasks)
    if arguments.dtype == "bfloat16":
        base.backbone.to(torch.bfloat16)
    return base


def build(side: str, arguments: argparse.Namespace) -> AttachedModel:
    """The model of one side."""
    base = load_base(arguments, held=side not in BARE)
    method = build_method(parse_method(_section(side)))
    batch = draw_batch(arguments, heads=base.heads is not None)

    def calibrate() -> None:
        base(batch)

    solved = cast(SolvedRows, ShownRows(arguments.shown))
    return method.attach(base, AttachContext(0, calibrate, solved=solved)).train()


def _section(side: str) -> dict[str, object]:
    """The method of one side."""
    if side in BARE:
        return {"name": "lora"}
    if side == "network":
        return {"name": "peml", "context": {}, "search": {"mode": "none"}}
    context = {"of": "adapted" if side == "adapted" else "frozen"}
    if side == "exact":
        context["leave_one_out"] = "exact"
    correction = {"trains": "keys-values"} if side == "corrected" else {}
    return {"name": "lora+context", "context": context, "correction": correction}


def draw_batch(arguments: argparse.Namespace, *, heads: bool, before: int = 0) -> TaskBatch:
    """Random rows of one length, whose last tokens are the answer; for heads without labels.

    Args:
        arguments: Say how many, and how long.
        heads: Whether the model has some.
        before: Tokens that stand in front of each row.
    """
    size = (arguments.rows, before + arguments.length)
    ids = torch.randint(10, 300, size, generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = ids[:, -3:]
    numbers = torch.arange(arguments.rows)
    return TaskBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        targets=torch.ones(arguments.rows),
        task_ids=numbers % len(TASKS),
        groups=numbers,
        rows=numbers,
        labels=None if heads else labels,
    )


def copied(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    contexts: Sequence[Shared],
    *,
    scaling: float,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """What `attend_shared` computes, from a copy of the context per row; contexts of one length."""
    keys = [each.key.expand(each.rows, -1, -1, -1) for each in contexts if each.key is not None]
    values = [v.value.expand(v.rows, -1, -1, -1) for v in contexts if v.value is not None]
    queries, length = query.shape[2], keys[0].shape[2]
    key, value = torch.cat([torch.cat(keys), key], 2), torch.cat([torch.cat(values), value], 2)
    if mask is None and causal:
        mask = torch.ones(queries, queries, dtype=torch.bool).tril_()[None, None]
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (length, 0), value=mask.dtype == torch.bool)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.to(value.dtype), key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2)


def step(model: AttachedModel, batch: TaskBatch, arguments: argparse.Namespace) -> None:
    """A forward and a backward pass."""
    low = arguments.dtype == "bfloat16"
    with torch.autocast("cpu", dtype=torch.bfloat16) if low else nullcontext():
        loss = model(batch).loss
    loss.backward()
    model.zero_grad()


def measure(arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of a step on every side, interleaved."""
    sides = ("lora", *arguments.sides)
    models = {side: build(side, arguments) for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    clock = CLOCKS[arguments.clock]
    with ExitStack() as training:
        for model in models.values():
            training.enter_context(fast_attention(model.base.backbone))
        for _ in range(arguments.rounds + 1):
            for side, model in models.items():
                before = arguments.positions if side == "prompt" else 0
                batch = draw_batch(arguments, heads=model.base.heads is not None, before=before)
                use = copied if side == "copied" else attend_shared
                setattr(inject, "attend_shared", use)  # noqa: B010
                since = clock()
                step(model, batch, arguments)
                seconds[side].append(clock() - since)
    setattr(inject, "attend_shared", attend_shared)  # noqa: B010
    counted = {side: series[1:] for side, series in seconds.items()}  # the first warms up
    limits = {"frozen": 1.35, "adapted": 1.6}
    figures = [compare("step", counted, s, "lora", limits.get(s)) for s in arguments.sides]
    if {"frozen", "prompt"} <= set(arguments.sides):
        figures.append(compare("step", counted, "frozen", "prompt", 0.35))
    return figures


def compare(
    what: str, seconds: dict[str, list[float]], side: str, base: str, limit: float | None
) -> Figure:
    """The ratio of two sides' times, with its interval, and what it must not exceed."""
    ratio = ratio_of_medians(seconds[side], seconds[base])
    unit = f"ratio, 95 % in [{ratio.low:.2f}, {ratio.high:.2f}]"
    name = f"{what}, {side} / {base}"
    if limit is None:
        return Figure(name, ratio.value, unit)
    return at_most(name, ratio.value, unit, limit)


def size_options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the sizes of batches and contexts."""
    parser = plain_parser(doc)
    parser.add_argument("--model", default="smollm2", help="smollm2, minilm, or tiny")
    parser.add_argument("--positions", type=int, default=500, help="about that many per context")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are counted")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = size_options(__doc__)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--shown", type=int, default=2, help="rows of a batch that are shown")
    arguments = parser.parse_args(argv)
    title = f"{arguments.model}, contexts of {arguments.positions}, {arguments.dtype}"
    report(title, measure(arguments), arguments)


if __name__ == "__main__":
    main()
