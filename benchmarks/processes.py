"""Two processes of one core each that train one run, against one process of one core.

Both take the same steps, of two batches each, and evaluate the same rows. By the wall clock, the
seconds of training and evaluation are those that the runs report of themselves, which needs two
cores that nothing else uses. By the CPU clock they are what each step and each split takes the
process that needs longest, for machines with other work: what waiting, exchanges excepted, costs.

    python benchmarks/processes.py [--clock cpu] [--set batches.even_steps=true ...] [--rounds N]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from common import CLOCKS, Figure, at_least, benchmark_parser, load_mixture, mixture_name, report

import peml.run.evaluation as evaluation
from peml.config.loading import load_config
from peml.distributed import join
from peml.evaluation.evaluate import score_split
from peml.records.run import Results
from peml.run.pipeline import fit
from peml.training.loop import TrainingLoop

LEAST = 1.8
_TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
_SETTINGS = (
    "method={name: lora, r: 8}",
    "training.accumulation=2",
    "training.epochs=1",
    "evaluation.ablations=false",
    "export=false",
)
Seconds = dict[str, list[float]]
"""Phase: CPU seconds of each step or split."""


def work(config: Path, folder: Path) -> None:
    """One process of a run; writes what its steps and splits took."""
    seconds: Seconds = {"train": [], "evaluate": []}

    def timed(call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            since = time.process_time()
            result = call(*arguments)
            seconds[phase].append(time.process_time() - since)
            return result

        return measured

    TrainingLoop._step = timed(TrainingLoop._step, "train")  # type: ignore[method-assign]
    scored = timed(score_split, "evaluate")
    setattr(evaluation, "score_split", scored)  # noqa: B010 - mypy knows it as imported
    fit(load_config(config), folder)
    path = folder.parent / f"{folder.name}-{join().rank}.json"
    path.write_text(json.dumps(seconds), encoding="utf-8")


def run(config: Path, folder: Path, processes: int, clock: str) -> dict[str, float]:
    """Seconds of the phases of a run in so many processes of one core each."""
    subprocess.run(
        [sys.executable, *(_TWO if processes == 2 else ()), __file__, "--work", config, folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=partial(os.sched_setaffinity, 0, range(processes)),
        capture_output=True,
        check=True,
    )
    if clock == "wall":
        return Results.read(folder).cost.seconds
    files = [folder.parent / f"{folder.name}-{rank}.json" for rank in range(processes)]
    ranks: list[Seconds] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {
        phase: sum(max(each) for each in zip(*(rank[phase] for rank in ranks), strict=True))
        for phase in ranks[0]
    }


def measure(config: Path, folder: Path, rounds: int, clock: str) -> list[Figure]:
    """How many times the rows a second of one process two have, by phase; the best of rounds."""
    seconds: dict[int, dict[str, float]] = {1: {}, 2: {}}
    for number in range(rounds):
        for processes, best in seconds.items():
            found = run(config, folder / f"{processes}-{number}", processes, clock)
            for phase, value in found.items():
                best[phase] = min(value, best.get(phase, value))
    return [
        at_least(
            f"rows a second in {name}, two processes / one ({clock})",
            seconds[1][phase] / seconds[2][phase],
            "x",
            LEAST,
        )
        for phase, name in (("train", "training"), ("evaluate", "evaluation"))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--work", nargs=2, type=Path, help="be one of the processes")
    options = parser.parse_args(arguments)
    if options.work:
        work(*options.work)
        return
    config = load_mixture(options, *_SETTINGS, *options.set).config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        figures = measure(path, Path(folder), options.rounds, options.clock)
    report(f"two processes, {mixture_name(options)}", figures, options)


if __name__ == "__main__":
    main()
