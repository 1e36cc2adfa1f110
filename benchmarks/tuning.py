"""What tuning costs and gains: overhead, two workers, TPE against random search, pruning.

    python benchmarks/tuning.py overhead workers samplers pruning [--folder FOLDER] [--json FILE]

Name the parts to measure. Studies are kept in the folder: a part that was stopped goes on, and
`pruning` compares with the TPE studies of `samplers`. Times need a machine that does nothing else;
on a busy one, `overhead --clock cpu` counts the processors' seconds instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from common import Clock, Figure, at_least, at_most, benchmark_parser, report

SPACE: dict[str, Any] = {
    "training.learning_rates.lora": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.learning_rates.prefix": {"low": 1e-4, "high": 3e-2, "log": True},
    "method.lora.r": [4, 8, 16],
    "method.prefix.width": {"low": 32, "high": 96, "step": 32},
    "method.search.share": {"low": 0.2, "high": 0.6},
}


def study(arguments: argparse.Namespace, **sections: Any) -> dict[str, Any]:
    """The config of a study of PEML."""
    tasks: dict[str, Any] = {"suite": "demo", "exclude": ["clock"]}
    if arguments.source is not None:
        tasks = {"suite": "glue", "source": arguments.source, "missing": "skip"}
    rows = arguments.rows
    return {
        "run": {
            "model": {"name": arguments.model, "max_length": 64},
            "method": {"name": "peml"},
            "tasks": {**tasks, "rows": rows, "evaluation_rows": 8, "development_rows": rows // 2},
            "batches": {"tokens": 2048, "rows": 16},
            "training": {
                "epochs": arguments.epochs,
                "evaluate_every": arguments.evaluate_every,
                "precision": arguments.precision,
            },
        },
        "space": SPACE,
        "sampler": {"name": "random", "startup": arguments.startup},
        "budget": {"trials": arguments.trials},
        "execution": {
            "kind": "processes" if arguments.jobs > 1 else "inline",
            "jobs": arguments.jobs,
        },
        **sections,
    }


def processors() -> float:
    """Processor seconds of all processes that were started here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peml(*words: str, clock: Clock = time.perf_counter) -> float:
    """Runs `peml` with these words and returns its seconds; its output is shown if it fails."""
    since = clock()
    command = [sys.executable, "-m", "peml", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return clock() - since


def tuned(folder: Path, config: dict[str, Any], clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Runs a study, or what is left of it, and returns its ``study.json`` and the seconds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    found = folder / "study.json"
    complete = found.is_file() and len(json.loads(found.read_text())["trials"]) >= int(
        config["budget"]["trials"]
    )
    seconds = 0.0 if complete else peml("tune", str(path), "--output", str(folder), clock=clock)
    content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return {**content, "seconds": seconds}


def best(content: dict[str, Any]) -> float:
    """The best development mean, in points."""
    trials = {trial["number"]: trial for trial in content["trials"]}
    return 100 * float(trials[content["best"][0]]["objectives"][0])


def overhead(arguments: argparse.Namespace) -> list[Figure]:
    """One study against a `peml fit` command for each of its trials."""
    folder: Path = arguments.folder / "overhead"
    _refuse(folder)
    clock = {"wall": time.perf_counter, "cpu": processors}[arguments.clock]
    content = tuned(folder, study(arguments, execution={"kind": "processes", "jobs": 1}), clock)
    runs = sorted(path.parent for path in (folder / "trials").glob("*/config.yaml"))
    apart = sum(
        peml(
            "fit",
            str(run / "config.yaml"),
            "--output",
            str(folder / "apart" / run.name),
            clock=clock,
        )
        for run in runs
    )
    name = f"peml tune / its {len(runs)} trials, {arguments.clock} time"
    return [at_most(name, content["seconds"] / apart, "ratio", 1.03)]


def workers(arguments: argparse.Namespace) -> list[Figure]:
    """Trials an hour of two workers of one core each, against one, and against one of two."""
    rates = {}
    for jobs, cpus in ((1, 1), (2, 1), (1, 2)):
        folder = arguments.folder / f"workers-{jobs}x{cpus}"
        _refuse(folder)
        execution = {"kind": "processes", "jobs": jobs, "cpus": cpus}
        content = tuned(folder, study(arguments, execution=execution))
        rates[jobs, cpus] = 3600 * len(content["trials"]) / content["seconds"]
    return [
        Figure("one worker, one core", rates[1, 1], "trials an hour"),
        Figure("one worker, two cores", rates[1, 2], "trials an hour"),
        Figure("two workers, a core each", rates[2, 1], "trials an hour"),
        at_least("two workers / one of one core", rates[2, 1] / rates[1, 1], "ratio", 1.6),
        Figure("two workers / one of two cores", rates[2, 1] / rates[1, 2], "ratio"),
    ]


def samplers(arguments: argparse.Namespace) -> list[Figure]:
    """The best of TPE and of random search after the same number of trials, over seeds."""
    found = {name: [best(c) for c in _seeds(arguments, name)] for name in ("random", "tpe")}
    figures = []
    for name, values in found.items():
        figures += [
            Figure(f"{name}, mean best of {len(values)} seeds", statistics.fmean(values), "points"),
            Figure(f"{name}, deviation", statistics.stdev(values), "points"),
        ]
    gain = [tpe - random for tpe, random in zip(found["tpe"], found["random"], strict=True)]
    return [
        *figures,
        at_least("tpe - random, mean of the seeds", statistics.fmean(gain), "points", 0.0),
        Figure("tpe - random, deviation", statistics.stdev(gain), "points"),
    ]


def pruning(arguments: argparse.Namespace) -> list[Figure]:
    """Tokens saved by Hyperband and what is lost, against the same studies without it."""
    pairs = list(
        zip(
            _seeds(arguments, "tpe"),
            _seeds(arguments, "tpe", pruner={"name": "hyperband", "least": arguments.least}),
            strict=True,
        )
    )
    saved = [1 - cut["cost"]["tokens"] / whole["cost"]["tokens"] for whole, cut in pairs]
    lost = [best(whole) - best(cut) for whole, cut in pairs]
    stopped = [sum(t["state"] == "pruned" for t in cut["trials"]) for _, cut in pairs]
    return [
        Figure("trials stopped, of each study", statistics.fmean(stopped), "trials"),
        Figure("tokens saved, mean of the seeds", 100 * statistics.fmean(saved), "%"),
        Figure("tokens saved, deviation", 100 * statistics.stdev(saved), "%"),
        Figure("best mean lost, mean of the seeds", statistics.fmean(lost), "points"),
        Figure("best mean lost, deviation", statistics.stdev(lost), "points"),
    ]


def _seeds(arguments: argparse.Namespace, sampler: str, **sections: Any) -> list[dict[str, Any]]:
    """A study for each seed of the sampler."""
    suffix = "".join(f"-{section['name']}" for section in sections.values())
    studies = []
    for seed in range(arguments.seeds):
        chosen = {"name": sampler, "startup": arguments.startup, "seed": seed}
        folder = arguments.folder / f"{sampler}{suffix}-{seed}"
        studies.append(tuned(folder, study(arguments, sampler=chosen, **sections)))
    return studies


def _refuse(folder: Path) -> None:
    """A study that was begun before can't be timed."""
    if folder.exists():
        sys.exit(f"{folder} exists: remove it to measure its time again")


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "overhead": overhead,
    "workers": workers,
    "samplers": samplers,
    "pruning": pruning,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of overhead")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-tuning"))
    parser.add_argument("--trials", type=int, default=24, help="of every study")
    parser.add_argument("--startup", type=int, default=8, help="of them drawn at random by TPE")
    parser.add_argument("--seeds", type=int, default=5, help="studies of a sampler")
    parser.add_argument("--rows", type=int, default=200, help="train rows per task")
    parser.add_argument("--epochs", type=float, default=3, help="epochs of every trial")
    parser.add_argument("--precision", default="fp32", help="of every trial")
    parser.add_argument("--evaluate-every", type=int, default=30, help="steps, for the pruner")
    parser.add_argument("--least", type=float, default=0.3, help="share before a trial is stopped")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, where untimed")
    arguments = parser.parse_args(argv)
    figures = [figure for part in arguments.parts for figure in PARTS[part](arguments)]
    report("Tuning", figures, arguments)


if __name__ == "__main__":
    main()
