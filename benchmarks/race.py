"""PEML's training loop against Transformers' Trainer, in turn on the same machine.

The Trainer is interrupted every few steps to let the PEML loops train for a while, so that all see
the same machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from accelerate.state import AcceleratorState
from common import Clock, Figure, at_least, ratio_of_medians
from peft import LoraConfig, get_peft_model
from plain import TokenCount
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from peml.methods.lora.settings import LoraSettings
from peml.models import Backbone
from peml.models.compiling import CompiledBlocks
from peml.prefix.genotype import Genotype
from peml.records.metrics import Evaluation, Scores, StepRecord
from peml.run.precision import build_accelerator
from peml.run.preparation import Prepared
from peml.run.training import attach
from peml.training.loop import Phase, TrainingLoop
from peml.training.optimizer import build_optimizer

__all__ = ["RIVAL", "Ours", "Rival", "Tally", "decoder_rival", "race", "with_and_without"]

RIVAL = "Trainer + PEFT LoRA"


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

    @property
    def rates(self) -> list[float]:
        """Real tokens per second of each segment."""
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


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
        prepared: Rows, method and settings.
        total_steps: Steps it will be asked for.
        genotype: The prefix that a search has left; default: the method searches, if it can.
        backbone: The frozen model, which is changed in place; default: it is loaded.
    """

    def __init__(
        self,
        prepared: Prepared,
        total_steps: int,
        genotype: Genotype | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        settings = prepared.config.training
        AcceleratorState._reset_state()  # or a Trainer's precision, built before, would be refused
        accelerator = build_accelerator(settings.precision)
        model = attach(prepared, accelerator.device, genotype, backbone)
        self.compiled = CompiledBlocks(model.base.backbone) if settings.compile else None
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
            evaluate=lambda: Scores(mean=0.0, tasks={}),
            listener=Silent(),
            around=nullcontext if self.compiled is None else self.compiled.in_use,
        )

    def train(self, steps: int) -> int:
        """Trains for so many steps and returns the real tokens seen."""
        progress = self.loop.progress
        before = progress.tokens
        self.loop.run(Phase("benchmark", progress.step + steps, self._before_step, may_stop=False))
        return progress.tokens - before


@dataclass(frozen=True)
class Rival:
    """What the Trainer gets.

    Attributes:
        model: The model, with its LoRA.
        rows: Encoded train rows.
        collate: Makes batches of them.
        options: What differs from the Trainer's defaults.
    """

    model: Any
    rows: Any
    collate: Any
    options: Mapping[str, Any]

    def train(
        self, total_steps: int, steps: int, clock: Clock, between: Callable[[bool], None]
    ) -> Tally:
        """Trains with the Trainer's defaults, but for saving and reporting.

        Args:
            total_steps: Steps of all segments.
            steps: Steps of a segment; the first segment is not counted.
            clock: What tells the time.
            between: Called after every segment with whether it counts.
        """
        segments = _BetweenSegments(TokenCount(self.model), steps, clock, between)
        AcceleratorState._reset_state()  # or a precision that PEML has set would be kept
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                self.model,
                TrainingArguments(
                    output_dir=folder,
                    max_steps=total_steps,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    logging_strategy="no",
                    **self.options,
                ),
                train_dataset=self.rows,
                data_collator=self.collate,
                callbacks=[segments],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return segments.tally


def decoder_rival(prepared: Prepared, model: Any, rows: int, **options: Any) -> Rival:
    """PEFT's LoRA on a decoder, with PEML's rank, learning rate and rows.

    Args:
        prepared: Names the rows and the tokenizer.
        model: The decoder, which is changed in place.
        rows: Rows of a batch.
        **options: Of `TrainingArguments`.
    """
    lora = LoraSettings()
    config = LoraConfig(
        r=lora.r, lora_alpha=int(lora.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    encoded = [
        {"input_ids": row["input_ids"][0], "labels": row["labels"][0]}
        for split in prepared.train
        for row in split.rows
    ]
    collate = DataCollatorForSeq2Seq(prepared.family.tokenizer)
    given = {"per_device_train_batch_size": rows, "learning_rate": lora.learning_rate, **options}
    return Rival(get_peft_model(model, config), encoded, collate, given)


class _BetweenSegments(TrainerCallback):  # type: ignore[misc]
    """Times the Trainer in segments and calls others in between."""

    def __init__(
        self, count: TokenCount, steps: int, clock: Clock, between: Callable[[bool], None]
    ) -> None:
        self.tally = Tally()
        self._count = count
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
        seconds, tokens = self._clock() - self._since, self._count.take()
        counted = state.global_step > self._steps
        if counted:
            self.tally.add(tokens, seconds)
        self._between(counted)
        self._since = self._clock()


def race(
    ours: Mapping[str, Ours],
    rival: Rival,
    *,
    segments: int,
    steps: int,
    more: int,
    clock: Clock,
    target: float,
) -> list[Figure]:
    """Tokens per second of all sides, interleaved.

    Args:
        ours: The PEML loops by name, ready for ``(segments + 1) * steps * more`` steps.
        rival: What the Trainer gets.
        segments: Segments that are counted; one more warms up.
        steps: The Trainer's steps in a segment.
        more: PEML's steps for one of the Trainer's.
        clock: What tells the time.
        target: What each ratio to the Trainer has to reach.
    """
    tallies = {name: Tally() for name in ours}

    def train_ours(counted: bool) -> None:
        for name, loop in ours.items():
            since = clock()
            tokens = loop.train(steps * more)
            if counted:
                tallies[name].add(tokens, clock() - since)

    theirs = rival.train((segments + 1) * steps, steps, clock, train_ours)
    figures = [Figure(f"{RIVAL}: real tokens per second", theirs.rate, "tokens/s")]
    for name, tally in tallies.items():
        figures.append(Figure(f"{name}: real tokens per second", tally.rate, "tokens/s"))
        spread = ratio_of_medians(tally.rates, theirs.rates)
        unit = f"ratio, 95 % in [{spread.low:.2f}, {spread.high:.2f}]"
        figures.append(at_least(f"{name} / {RIVAL}", tally.rate / theirs.rate, unit, target))
    return figures


def with_and_without(
    name: str,
    plain: Ours,
    changed: Ours,
    *,
    segments: int,
    steps: int,
    clock: Clock,
    target: float | None = None,
) -> list[Figure]:
    """Tokens per second of the same method under two settings, interleaved.

    Args:
        name: What the second side has.
        plain: The first side, ready for ``(segments + 1) * steps`` steps.
        changed: The second.
        segments: Segments that are counted; one more warms up.
        steps: Steps of a segment.
        clock: What tells the time.
        target: What the ratio has to reach, if anything.
    """
    sides = (plain, changed)
    tallies, first = (Tally(), Tally()), [0.0, 0.0]
    for segment in range(segments + 1):
        for side, loop in enumerate(sides):
            since = clock()
            tokens = loop.train(steps)
            seconds = clock() - since
            if segment:
                tallies[side].add(tokens, seconds)
            else:
                first[side] = seconds
    ratio = ratio_of_medians(tallies[1].rates, tallies[0].rates)
    unit = f"ratio, 95 % in [{ratio.low:.2f}, {ratio.high:.2f}]"
    label, rate = f"{name} / without, tokens per second", tallies[1].rate / tallies[0].rate
    figures = [
        Figure(f"{name}, without", tallies[0].rate, "tokens/s"),
        Figure(label, rate, unit) if target is None else at_least(label, rate, unit, target),
    ]
    if changed.compiled is not None:
        figures += [
            Figure(f"{name}: graphs", float(changed.compiled.graphs), ""),
            Figure(f"{name}: first {steps} steps take longer by", first[1] - first[0], "s"),
        ]
    return figures
