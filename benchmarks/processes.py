"""Two processes of one core each that train one run, against one process of one core.

Both take the same steps, of two batches each, and evaluate the same rows; seconds of training and
evaluation are those that the runs report of themselves. Needs two cores that nothing else uses.

    python benchmarks/processes.py [--model MODEL] [--source GLUE] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml
from common import Figure, at_least, benchmark_parser, load_mixture, mixture_name, report

from peml.records import Results

LEAST = 1.8
_ONE = ("-m", "peml")
_TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "peml")
_SETTINGS = (
    "method={name: lora, r: 8}",
    "training.accumulation=2",
    "training.epochs=1",
    "evaluation.ablations=false",
    "export=false",
)


def run(words: Sequence[str], config: Path, folder: Path, cores: int) -> dict[str, float]:
    """Seconds of the phases of a run on the first so many cores."""
    subprocess.run(
        [sys.executable, *words, "fit", str(config), "--output", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=partial(os.sched_setaffinity, 0, range(cores)),
        capture_output=True,
        check=True,
    )
    return Results.read(folder).cost.seconds


def measure(config: Path, folder: Path, rounds: int) -> list[Figure]:
    """How many times the rows a second of one process two have, by phase; the best of rounds."""
    seconds: dict[str, dict[str, float]] = {"one": {}, "two": {}}
    for number in range(rounds):
        for name, words, cores in (("one", _ONE, 1), ("two", _TWO, 2)):
            for phase, value in run(words, config, folder / f"{name}-{number}", cores).items():
                seconds[name][phase] = min(value, seconds[name].get(phase, value))
    return [
        at_least(
            f"rows a second in {name}, two processes / one",
            seconds["one"][phase] / seconds["two"][phase],
            "x",
            LEAST,
        )
        for phase, name in (("train", "training"), ("evaluate", "evaluation"))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    config = load_mixture(options, *_SETTINGS).config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        figures = measure(path, Path(folder), options.rounds)
    report(f"two processes, {mixture_name(options)}", figures, options)


if __name__ == "__main__":
    main()
