"""What the benchmarks share: figures and their table, options, the data, the rival's model."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.injection.support import check_support
from peml.models import load_backbone
from peml.prefix.genotype import Genotype
from peml.run.preparation import Prepared, prepare
from peml.tasks import TaskType, load_suite

__all__ = [
    "CLOCKS",
    "Clock",
    "Figure",
    "Ratio",
    "at_least",
    "at_most",
    "benchmark_parser",
    "describe_machine",
    "final_genotype",
    "genotype_for",
    "load_mixture",
    "mixture_name",
    "plain_parser",
    "ratio_of_medians",
    "report",
]

Clock = Callable[[], float]
"""Seconds since some moment."""

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}

_EXAMPLES = Path(__file__).parents[1] / "examples"
_RESAMPLES = 2000
_CELLS = ("mlp-gelu", "self-attention", "min-gru")
_LENGTH = 16


@dataclass(frozen=True)
class Figure:
    """One measured value; ``holds`` is None where there is nothing to reach."""

    name: str
    value: float
    unit: str
    target: str | None = None
    holds: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must not exceed a limit."""
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must reach a limit."""
    return Figure(name, value, unit, f">= {limit:g}", value >= limit)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio_of_medians(measured: Sequence[float], base: Sequence[float]) -> Ratio:
    """Median over median of two interleaved series; rounds are resampled together.

    Args:
        measured: One value a round.
        base: The value of the same rounds to compare with.
    """
    draw = random.Random(0)
    rounds = range(len(base))

    def ratio(chosen: Sequence[int]) -> float:
        top, bottom = ([series[i] for i in chosen] for series in (measured, base))
        return statistics.median(top) / statistics.median(bottom)

    ratios = sorted(ratio(draw.choices(rounds, k=len(base))) for _ in range(_RESAMPLES))
    low, high = ratios[int(0.025 * _RESAMPLES)], ratios[int(0.975 * _RESAMPLES) - 1]
    return Ratio(ratio(rounds), low, high)


def describe_machine() -> str:
    """Processor, GPU, threads and versions, in one line."""
    threads = torch.get_num_threads()
    parts = [
        _processor(),
        f"{threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()} cores",
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
    ]
    if torch.cuda.is_available():
        parts.insert(1, torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def plain_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def benchmark_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of the benchmarks that train."""
    parser = plain_parser(doc)
    parser.add_argument("--model", default="minilm", help="a BERT or RoBERTa; default: minilm")
    parser.add_argument(
        "--source",
        default=_default_source(),
        help="folder with the GLUE tasks; default: PEML_DATA/glue, else the demo's tasks",
    )
    return parser


def _default_source() -> str | None:
    data = os.environ.get("PEML_DATA")
    return str(Path(data) / "glue") if data else None


def load_mixture(arguments: argparse.Namespace, *overrides: str) -> Prepared:
    """The rows of ``examples/glue.yaml``, or of ``examples/demo.yaml`` where there is no source.

    Of the demo's tasks, generation is left out, which no encoder does, and multiple choice, so that
    a row is one sequence on both sides of a comparison.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Both sides of a comparison in the same precision, whatever the machine has.
    settings = [f"model.name={arguments.model}", "training.precision=fp32", "model.dtype=float32"]
    if arguments.source is None:
        unfit = (TaskType.MULTIPLE_CHOICE, TaskType.GENERATION)
        left_out = [task.name for task in load_suite("demo").tasks if task.type in unfit]
        settings.append(f"tasks.exclude={json.dumps(left_out)}")
        path = _EXAMPLES / "demo.yaml"
    else:
        settings.append(f"tasks.source={arguments.source}")
        path = _EXAMPLES / "glue.yaml"
    config: RunConfig = load_config(path, [*settings, *overrides])
    return prepare(config)


def final_genotype(prepared: Prepared) -> Genotype:
    """`genotype_for` the model that a run loads."""
    return genotype_for(load_backbone(prepared.config.model, prepared.family).model)


def genotype_for(model: Any) -> Genotype:
    """A prefix as a search may end with: every layer, and cells that are among the dearer ones."""
    shape = check_support(model).shape
    if shape is None:
        raise ValueError(f"{type(model).__name__} can't take a prefix")
    return Genotype.fixed_mlp(shape, length=_LENGTH).model_copy(update={"cells": _CELLS})


def mixture_name(arguments: argparse.Namespace) -> str:
    """What ``load_mixture`` loads, for titles."""
    return "the demo's tasks (no --source given)" if arguments.source is None else "GLUE mixture"


def report(title: str, figures: Sequence[Figure], arguments: argparse.Namespace) -> None:
    """Prints the table, and writes the figures where ``--json`` says."""
    table = Table("figure", "value", "unit", "target", "holds", title=title)
    for figure in figures:
        holds = "" if figure.holds is None else "yes" if figure.holds else "NO"
        table.add_row(figure.name, f"{figure.value:,.4g}", figure.unit, figure.target or "", holds)
    console = Console()
    console.print(table)
    console.print(describe_machine(), highlight=False)
    if arguments.json is not None:
        text = json.dumps([asdict(figure) for figure in figures], indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")
