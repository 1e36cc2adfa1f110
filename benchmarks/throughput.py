"""Real tokens per second of PEML's training against Transformers' Trainer with PEFT's LoRA.

Same rows, same rank, same optimizer class, same number of rows in a batch. The Trainer has its
defaults: random batches of mixed rows, padded to the longest. It is interrupted every few steps
to let the PEML loops train for a while, so that all see the same machine; peak memory is measured
in one process each.

    python benchmarks/throughput.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from common import (
    CLOCKS,
    Clock,
    Figure,
    at_least,
    at_most,
    benchmark_parser,
    final_genotype,
    load_mixture,
    mixture_name,
    ratio_of_medians,
    report,
)
from plain import PlainLora
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from peml.methods import LoraSettings
from peml.records import Evaluation, StepRecord
from peml.run.cost import peak_memory
from peml.run.precision import build_accelerator
from peml.run.preparation import Prepared
from peml.run.training import attach
from peml.training import Phase, TrainingLoop, build_optimizer

TARGET = 2.0
RIVAL = "Trainer + PEFT LoRA"
SIDES = {"PEML, lora": "lora", "PEML, peml in search": "peml", "PEML, peml after search": "fixed"}


@dataclass
class Tally:
    """Tokens and seconds of one side's segments."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, tokens: int, seconds: float) -> None:
        """Adds a segment."""
        self.tokens.append(tokens)
        self.seconds.append(seconds)

    @property
    def rate(self) -> float:
        """Real tokens per second, all segments together."""
        return sum(self.tokens) / sum(self.seconds)


class Silent:
    """Listens to a training loop and says nothing."""

    def on_step(self, record: StepRecord) -> None:
        """Ignored."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Ignored."""

    def on_checkpoint(self, phase: str) -> None:
        """Ignored."""


class Ours:
    """One PEML method in the loop that ``peml fit`` runs.

    Args:
        arguments: The options.
        side: A value of ``SIDES``: ``lora``, ``peml`` (searching) or ``fixed`` (the
            prefix that is left after a search).
        total_steps: Steps it will be asked for.
    """

    def __init__(self, arguments: argparse.Namespace, side: str, total_steps: int) -> None:
        method = "lora" if side == "lora" else "peml"
        prepared = mixture(arguments, f"method={{name: {method}}}")
        settings = prepared.config.training
        accelerator = build_accelerator(settings.precision)
        genotype = final_genotype(prepared) if side == "fixed" else None
        model = attach(prepared, accelerator.device, genotype)
        self._before_step: Callable[[int], None] = lambda step: None
        if model.search is not None:
            model.search.begin(total_steps)
            self._before_step = model.search.before_step
        self.loop = TrainingLoop(
            model,
            build_optimizer(model.groups(), settings),
            prepared.stream,
            accelerator,
            settings,
            balancing=prepared.balancing.to(accelerator.device),
            total_steps=total_steps,
            evaluate=lambda: {"none": 0.0},
            listener=Silent(),
        )

    def train(self, steps: int) -> int:
        """Trains for so many steps and returns the real tokens seen."""
        progress = self.loop.progress
        before = progress.tokens
        self.loop.run(Phase("benchmark", progress.step + steps, self._before_step, may_stop=False))
        return progress.tokens - before


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


class BetweenSegments(TrainerCallback):  # type: ignore[misc]
    """Times the Trainer in segments and calls others in between.

    Args:
        model: Counts the Trainer's tokens.
        steps: Steps of a segment; the first one is not counted.
        clock: What tells the time.
        between: Called after every segment with whether it counts.
    """

    def __init__(
        self, model: PlainLora, steps: int, clock: Clock, between: Callable[[bool], None]
    ) -> None:
        self.tally = Tally()
        self._model = model
        self._steps = steps
        self._clock = clock
        self._between = between
        self._since = 0.0

    def on_train_begin(self, *arguments: Any, **others: Any) -> None:
        """Starts the clock."""
        self._since = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Ends a segment every so many steps."""
        if state.global_step % self._steps:
            return
        counted = state.global_step > self._steps
        if counted:
            self.tally.add(self._model.tokens, self._clock() - self._since)
        self._between(counted)
        self._model.tokens = 0
        self._since = self._clock()


def mixture(arguments: argparse.Namespace, *overrides: str) -> Prepared:
    """The rows, in batches of the default size."""
    return load_mixture(arguments, f"batches.rows={arguments.rows}", *overrides)


def run_trainer(
    arguments: argparse.Namespace, total_steps: int, between: Callable[[bool], None]
) -> Tally:
    """Trains with Transformers' Trainer, defaults but for saving and reporting."""
    prepared = mixture(arguments)
    lora = LoraSettings()
    model = PlainLora(prepared, r=lora.r, alpha=lora.alpha)
    segments = BetweenSegments(model, arguments.steps, CLOCKS[arguments.clock], between)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=arguments.rows,
                max_steps=total_steps,
                learning_rate=lora.learning_rate,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                logging_strategy="no",
            ),
            train_dataset=Rows(prepared),
            data_collator=DataCollatorWithPadding(prepared.family.tokenizer),
            callbacks=[segments],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return segments.tally


def measure_rates(arguments: argparse.Namespace) -> list[Figure]:
    """Tokens per second of all sides, interleaved."""
    segments = arguments.segments + 1  # the first warms up
    clock = CLOCKS[arguments.clock]
    steps = arguments.steps * arguments.more
    ours = {name: Ours(arguments, side, segments * steps) for name, side in SIDES.items()}
    tallies = {name: Tally() for name in ours}

    def train_ours(counted: bool) -> None:
        for name, loop in ours.items():
            since = clock()
            tokens = loop.train(steps)
            if counted:
                tallies[name].add(tokens, clock() - since)

    rival = run_trainer(arguments, segments * arguments.steps, train_ours)
    figures = [Figure(f"{RIVAL}: real tokens per second", rival.rate, "tokens/s")]
    for name, tally in tallies.items():
        figures.append(Figure(f"{name}: real tokens per second", tally.rate, "tokens/s"))
        rates = [[t / s for t, s in zip(x.tokens, x.seconds, strict=True)] for x in (tally, rival)]
        spread = ratio_of_medians(*rates)
        unit = f"ratio, 95 % in [{spread.low:.2f}, {spread.high:.2f}]"
        ratio = tally.rate / rival.rate
        figures.append(at_least(f"{name} / {RIVAL}", ratio, unit, TARGET))
    return figures


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
        run_trainer(arguments, steps, lambda counted: None)
    else:
        Ours(arguments, SIDES[arguments.only], steps).train(steps)
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
