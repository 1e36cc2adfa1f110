"""The parts of `gpu.py`: each measures one thing on a `Bench` and returns its figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from common import Figure, at_most, genotype_for, ratio_of_medians
from gpu_bench import BF16, SIDES, Bench, peak_of
from harness_agreement import largest_difference
from race import RIVAL, race, with_and_without
from step_time import Step, bucket_batch, model_step, time_rounds

from peml.data import TaskBatch
from peml.evaluation import predict_split
from peml.evaluation.evaluate import Predictions
from peml.methods.attached import AttachedModel
from peml.run.training import attach
from peml.training.optimizer import build_optimizer

STEPS = {"peml in search": 1.10, "peml after search": 1.05}
CONTEXT_STEPS = {"context, frozen": 1.35, "context, adapted": 1.6}
_SHAPES = 12
SPEED, MEMORY = 1.5, 0.7
# Rounding of float32 sums in another order, over 30 steps of training.
LOSSES, SCORES = 1e-3, 1e-2


def measure_agreement(bench: Bench) -> list[Figure]:
    """Losses of 30 steps on the CPU and here, and predictions of the same weights."""
    cpu, steps = torch.device("cpu"), bench.arguments.curve
    (ours, model), (theirs, _) = (train_plainly(bench, d, steps) for d in (bench.device, cpu))
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    here, there = predict(bench, model), predict(bench, model.to(cpu))
    other, worst = 0, 0.0
    for one, two in zip(here, there, strict=True):
        other += sum(a != b for a, b in zip(one.predicted, two.predicted, strict=True))
        worst = max(worst, largest_difference(one.scores, two.scores))
    name = f"{bench.name}, float32, CPU"
    return [
        at_most(f"{name}: relative difference of a loss, {steps} steps", apart, "", LOSSES),
        at_most(f"{name}: other predictions", float(other), "rows", 0),
        at_most(f"{name}: largest difference of an option's score", worst, "nats", SCORES),
    ]


def train_plainly(
    bench: Bench, device: torch.device, steps: int
) -> tuple[list[float], AttachedModel]:
    """Losses of some steps of eight rows with the found prefix, and the model they leave."""
    prepared = bench.prepared("peml", "batches.rows=8")
    backbone = bench.backbone(prepared, torch.device("cpu"))  # the same random numbers everywhere
    model = attach(prepared, device, genotype_for(backbone.model), backbone).train()
    optimizer = build_optimizer(model.groups(), prepared.config.training)
    losses = []
    for _ in range(steps):
        loss = model(prepared.stream.next().to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses, model


def predict(bench: Bench, model: AttachedModel) -> list[Predictions]:
    """Predictions of a few reported rows of the tasks that have options."""
    prepared = bench.prepared("peml", "tasks.evaluation_rows=8")
    settings = prepared.config.evaluation
    scored = [s for s in prepared.reported if not prepared.tasks[s.task_id].type.has_scale]
    return [predict_split(model.eval(), s.encoded, s.task_id, settings) for s in scored]


def measure_rates(bench: Bench, checkpointing: bool) -> list[Figure]:
    """Tokens per second against the Trainer, and both peaks."""
    given = bench.arguments
    more = (*BF16, f"model.gradient_checkpointing={str(checkpointing).lower()}")
    what = f"{bench.name}, checkpointing {'on' if checkpointing else 'off'}"
    total, few = (given.segments + 1) * given.steps, given.steps

    def train_rival() -> Callable[[], object]:
        rival = bench.rival(checkpointing)
        return lambda: rival.train(few, few, bench.clock, lambda counted: None)

    def train_ours() -> Callable[[], object]:
        ours = bench.ours("peml", few, *more)
        return lambda: ours.train(few)

    theirs, ours = (peak_of(build, bench.device) for build in (train_rival, train_ours))
    found = race(
        {f"PEML, {name}": bench.ours(side, total, *more) for name, side in SIDES.items()},
        bench.rival(checkpointing),
        segments=given.segments,
        steps=given.steps,
        more=1,
        clock=bench.clock,
        target=SPEED,
    )
    found += [
        Figure(f"{RIVAL}: peak memory", theirs / 2**20, "MiB"),
        at_most(f"PEML, in search / {RIVAL}: peak memory", ours / theirs, "ratio", MEMORY),
    ]
    return [Figure(f"{what}: {f.name}", f.value, f.unit, f.target, f.holds) for f in found]


def measure_steps(bench: Bench) -> list[Figure]:
    """Steps of the searching and of the found prefix against our own LoRA's, on one batch."""
    steps = {}
    for name, side in SIDES.items():
        prepared = bench.prepared("lora" if side == "lora" else "peml", *BF16)
        backbone = bench.backbone(prepared)
        genotype = genotype_for(backbone.model) if side == "fixed" else None
        steps[name] = model_step(attach(prepared, bench.device, genotype, backbone), "bf16")
    return step_ratios(bench, steps, bucket_batch(prepared), STEPS)


def step_ratios(
    bench: Bench, steps: dict[str, Step], batch: TaskBatch, limits: Mapping[str, float]
) -> list[Figure]:
    """Ratios of steps on one batch to those of the one named ``lora``."""
    seconds = time_rounds(steps, batch.to(bench.device), bench.arguments.rounds, 3, bench.clock)
    rows, length = batch.input_ids.shape
    figures = []
    for name, limit in limits.items():
        ratio = ratio_of_medians(seconds[name], seconds["lora"])
        unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
        label = f"{bench.name}: step, {name} / lora, {rows} x {length} tokens"
        figures.append(at_most(label, ratio.value, unit, limit))
    return figures


def measure_contexts(bench: Bench) -> list[Figure]:
    """Steps with contexts of solved rows against our own LoRA's, on one batch."""
    shown = "method={{name: lora+context, context: {{shots: 10, of: {}}}}}"
    methods = {"lora": "method={name: lora}"}
    methods |= {f"context, {of}": shown.format(of) for of in ("frozen", "adapted")}
    steps = {}
    for name, method in methods.items():
        prepared = bench.prepared("lora", *BF16, method)
        model = attach(prepared, bench.device, None, bench.backbone(prepared))
        steps[name] = model_step(model, "bf16")
    return step_ratios(bench, steps, bucket_batch(prepared), CONTEXT_STEPS)


def measure_shapes(bench: Bench) -> list[Figure]:
    """What the first step of a batch's shape costs: kernels are chosen or built per shape."""
    figures = []
    for name, cudnn in (("", True), (", without cuDNN's attention", False)):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        prepared = bench.prepared("lora", *BF16)
        model = attach(prepared, bench.device, None, bench.backbone(prepared))
        step = model_step(model, "bf16")
        planned = (prepared.stream.fetch(each) for each in prepared.stream.plan(0))
        batches = list({batch.input_ids.shape: batch for batch in planned}.values())[:_SHAPES]
        step(batches[0].to(bench.device))
        first, again = ([timed(step, b, bench) for b in batches[1:]] for _ in range(2))
        for what, seconds in (("first", first), ("second", again)):
            label = f"{bench.name}: {what} step of a shape{name}, median of {len(seconds)}"
            figures.append(Figure(label, 1000 * median(seconds), "ms"))
    torch.backends.cuda.enable_cudnn_sdp(True)
    return figures


def timed(step: Step, batch: TaskBatch, bench: Bench) -> float:
    """Seconds of a step."""
    moved, since = batch.to(bench.device), bench.clock()
    step(moved)
    return bench.clock() - since


def measure_settings(
    bench: Bench, name: str, changed: Sequence[str], target: float | None
) -> list[Figure]:
    """Tokens per second of the found prefix with other settings, against bf16's defaults."""
    given = bench.arguments
    total = (given.segments + 1) * given.steps
    return with_and_without(
        f"{bench.name}: {name}",
        bench.ours("fixed", total, *BF16),
        bench.ours("fixed", total, *BF16, *changed),
        segments=given.segments,
        steps=given.steps,
        clock=bench.clock,
        target=target,
    )


def measure_waits(bench: Bench) -> list[Figure]:
    """How often a training step waits for the GPU."""
    steps = 10
    ours = bench.ours("peml", 3 * steps, *BF16)
    ours.train(steps)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours.train(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in caught if "synchronizing" in str(w.message)]
    places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught})
    print("waits at", ", ".join(places))
    return [Figure(f"{bench.name}: waits for the GPU in a step", len(waits) / steps, "")]


def measure_evaluation(bench: Bench) -> list[Figure]:
    """Tokens per second of an evaluation, and its peak against training's."""

    def evaluate() -> Callable[[], object]:
        prepared = bench.prepared("peml", *BF16, "tasks.evaluation_rows=100")
        backbone = bench.backbone(prepared)
        model = attach(prepared, bench.device, genotype_for(backbone.model), backbone).eval()
        settings = prepared.config.evaluation

        def score() -> None:
            for split in prepared.reported:
                predict_split(model, split.encoded, split.task_id, settings)
                tokens.append(int(split.encoded.tokens.sum()))
            bench.clock()

        return score

    def train() -> Callable[[], object]:
        ours = bench.ours("peml", bench.arguments.steps, *BF16)
        return lambda: ours.train(bench.arguments.steps)

    tokens: list[int] = []
    seconds: list[float] = []

    def timed() -> Callable[[], object]:
        score = evaluate()

        def twice() -> None:
            for _ in range(2):  # the first one warms up
                tokens.clear()
                since = bench.clock()
                score()
                seconds.append(bench.clock() - since)

        return twice

    training, evaluation = (peak_of(build, bench.device) for build in (train, timed))
    rate = sum(tokens) / seconds[-1]
    name = f"{bench.name}: peak memory, evaluation / training"
    return [
        Figure(f"{bench.name}: evaluation, all options' tokens", rate, "tokens/s"),
        at_most(name, evaluation / training, "ratio", 1.0),
    ]
