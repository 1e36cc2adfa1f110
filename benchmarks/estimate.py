"""`peml estimate` against measured peak memory.

Each config is trained for some steps on its largest batch, and evaluated, each in a process of its
own. Measured is what the process's peak rises by from just before the weights are loaded. Libraries
and rows are left out: the allocator gives large blocks back at once, and oneDNN keeps few compiled
kernels (by default up to 1,024 in each of two caches, in bf16 some 0.3 MiB for every new shape).
Weights are read through once, since embeddings are mapped from the file and take memory only where
rows use them.

    pip install 'peml[demo,lm]'
    python benchmarks/estimate.py [CONFIG ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Figure, plain_parser, report
from option_scoring import ALLOCATOR
from race import Ours
from transformers.utils import logging

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.estimation import estimate, read_device
from peml.evaluation.evaluate import score_split
from peml.run.cost import peak_memory
from peml.run.preparation import Prepared, prepare
from peml.testing import save_tiny_model

WITHIN = 0.2
FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}
STEPS = 2
"""The second has the moments of the first."""
_DEMO = Path(__file__).parents[1] / "examples/demo.yaml"

_BF16 = ("training.precision=bf16", "model.dtype=bfloat16")
_FP32 = ("training.precision=fp32", "model.dtype=float32")
_AGAIN = "model.gradient_checkpointing=true"
_LONG = ("tasks.shots=8", "model.max_length=256", "batches.tokens=2048")
_PACKED = "batches.packing=true"
CONFIGS: dict[str, tuple[str, ...]] = {
    "MiniLM, lora": ("minilm", "method.name=lora", *_FP32),
    "MiniLM, peml in search, packed, 4,096 tokens": (
        *("minilm", "method.name=peml", *_FP32, _PACKED, "batches.tokens=4096", "batches.rows=64"),
    ),
    "MiniLM, mtl-lora, bf16": ("minilm", "method.name=mtl-lora", *_BF16),
    "MiniLM, full, checkpointing": ("minilm", "method.name=full", *_FP32, _AGAIN),
    "SmolLM2, lora, bf16": ("smollm2", "method.name=lora", *_BF16, "tasks.exclude=[]"),
    "SmolLM2, peml in search, checkpointing": ("smollm2", "method.name=peml", *_FP32, _AGAIN),
    "SmolLM2, mtl-lora, packed, checkpointing, 512 tokens": (
        *("smollm2", "method.name=mtl-lora", *_FP32, _AGAIN, _PACKED, "batches.tokens=512"),
    ),
    "SmolLM2, peml in search, long rows, bf16": ("smollm2", "method.name=peml", *_BF16, *_LONG),
    "SmolLM2, lora+context": ("smollm2", "method.name=lora+context", *_FP32),
}
"""Of each, the model and what differs from the demo; generation is in one of them."""
TINY = {"minilm": "bert", "smollm2": "llama"}


def read_config(name: str, folder: Path, *, tiny: bool = False) -> RunConfig:
    """One of ``CONFIGS``; its model is made in the folder if need be.

    Args:
        name: Its name.
        folder: Where random models are.
        tiny: Take a tiny model of the same kind.
    """
    model, *overrides = CONFIGS[name]
    if tiny:
        family, place = TINY.get(model, "bert"), folder / f"tiny-{model}"
        # The tiny tokenizer makes a context long.
        model = str(save_tiny_model(family, place, max_position_embeddings=4096))
    rows = ["tasks.rows=64", "tasks.evaluation_rows=64", "batches.tokens=1024"]
    rows += ["evaluation.tokens=2048", "training.learning_rates={}"]
    config: RunConfig = load_config(_DEMO, [f"model.name={model}", *rows, *overrides])
    return config


def measure(name: str, what: str, folder: Path) -> int:
    """Bytes that training or evaluating takes; in a fresh process."""
    tiny = read_config(name, folder, tiny=True)
    work(prepare(tiny), what)  # imports what the work needs
    prepared = prepare(read_config(name, folder))
    gc.collect()
    before = _resident()
    work(prepared, what)
    return peak_memory() - before


def work(prepared: Prepared, what: str) -> None:
    """Trains on the largest batch, or evaluates."""
    ours = Ours(prepared, STEPS)
    for weight in ours.loop.model.parameters():
        weight.detach().view(-1)[::512].sum()  # an element of each page of memory
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    if what == "training":
        stream = ours.loop.stream
        largest = stream.fetch(stream.plan(0)[int(np.argmax(stream.padded(0)))])
        setattr(stream, "fetch", lambda *_: largest)  # noqa: B010 - in place of the plan's batches
        ours.train(STEPS)
    else:
        with ours.loop.accelerator.autocast():
            for split in prepared.reported:
                score_split(ours.loop.model, split, prepared.config.evaluation)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def in_fresh_process(name: str, what: str, folder: Path) -> int:
    """`measure`, out of reach of what earlier measurements left in memory."""
    command = [sys.executable, __file__, name, "--measure", what, "--folder", str(folder)]
    environment = os.environ | ALLOCATOR | FEW_KERNELS
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(run.stdout.splitlines()[-1])


def compare(name: str, folder: Path) -> list[Figure]:
    """Estimate / measured of one config, in training and in evaluation."""
    found = estimate(read_config(name, folder), read_device("cpu"))
    figures = []
    parts: dict[str, Any] = {"training": found.training, "evaluation": found.evaluation}
    for what, part in parts.items():
        measured = in_fresh_process(name, what, folder)
        ratio = part.total / measured
        title = f"{name}: {what}, {part.total / 2**20:,.0f} MiB / {measured / 2**20:,.0f} MiB"
        holds = abs(ratio - 1) <= WITHIN
        figures.append(Figure(title, ratio, "ratio", f"1 +- {WITHIN:g}", holds))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("configs", nargs="*", choices=[*CONFIGS, []], help="default: all")
    parser.add_argument("--folder", type=Path, help="where random models are written")
    parser.add_argument("--measure", choices=("training", "evaluation"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.measure is not None:
        print(measure(arguments.configs[0], arguments.measure, arguments.folder))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        chosen = arguments.configs or list(CONFIGS)
        figures = [figure for name in chosen for figure in compare(name, folder)]
    report("Estimated / measured peak memory", figures, arguments)


if __name__ == "__main__":
    main()
