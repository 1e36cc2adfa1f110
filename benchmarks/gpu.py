"""All that is to be measured on a GPU, in one command of a few minutes.

Llama shapes of 135 M and 1.2 B parameters with random weights (SmolLM2's own where the extra `lm`
is installed), the rows of the demo's tasks or of GLUE. Figures are written after every part, a part
that fails is named and the others go on, and no part starts after the time is up.

Needs no hub, and of PEML's libraries not datasets, optuna, rouge-score and sqlalchemy. A machine
without a package index that has torch, Transformers, PEFT, accelerate, scikit-learn, scipy,
matplotlib, pyarrow, sacrebleu and typer also needs these wheels, and ``PYTHONPATH=src``: pydantic,
pydantic-core, annotated-types, typing-inspection, tensorboardX.

    python benchmarks/gpu.py --json FILE [--only PART ...]
    python benchmarks/gpu.py --tiny --json FILE     # tiny shapes, on a CPU too: does it all run?
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from common import Figure, benchmark_parser, describe_machine, report
from gpu_bench import SHAPES, Bench, build_bench
from gpu_parts import (
    measure_agreement,
    measure_contexts,
    measure_evaluation,
    measure_rates,
    measure_settings,
    measure_shapes,
    measure_steps,
    measure_waits,
)

Part = Callable[[], list[Figure]]


def list_parts(small: Bench, large: Bench) -> dict[str, Part]:
    """The parts by name, the most telling first."""
    parts: dict[str, Part] = {
        "contexts": lambda: measure_contexts(small),
        "shapes": lambda: measure_shapes(large),
        "large": lambda: measure_rates(large, checkpointing=False),
        "large-checkpointing": lambda: measure_rates(large, checkpointing=True),
        "large-steps": lambda: measure_steps(large),
        "agreement": lambda: measure_agreement(small),
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
