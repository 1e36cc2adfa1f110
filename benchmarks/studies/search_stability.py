"""How stable a search is: the same search with many seeds on real rows, and what wins.

Each seed is an ordinary run folder, so a stopped study goes on where it was:

    python benchmarks/studies/search_stability.py --source FOLDER --runs runs/stability

One variant a folder: give other settings with ``--set``, for example

    --runs runs/stability-bilevel --set method.search.optimise=bilevel

``--collect`` only prints the table of the runs that are finished.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peml.reporting import count_winners

TASKS = '["cola", "sst2", "mrpc", "stsb", "rte"]'
SETTINGS = (
    f"tasks.include={TASKS}",
    "tasks.rows=400",
    "tasks.evaluation_rows=200",
    "training.epochs=1.5",
    "method.search.score_options=true",
    "evaluation.ablations=false",
    "export=false",
)
"""Small enough for ten seeds in minutes, over the config of the GLUE study."""

CONFIG = Path(__file__).parents[2] / "examples" / "glue.yaml"


def run_seeds(source: str, runs: Path, seeds: int, extra: Sequence[str]) -> None:
    """Runs or resumes every seed."""
    for seed in range(seeds):
        settings = [f"tasks.source={source}", f"seed={seed}", *SETTINGS, *extra]
        arguments = [word for setting in settings for word in ("--set", setting)]
        call(["fit", str(CONFIG), *arguments, "--output", str(runs / f"seed{seed}")])


def call(arguments: Sequence[str]) -> None:
    """Runs `peml` in a process of its own."""
    subprocess.run([sys.executable, "-m", "peml", *arguments], check=True)


def table(runs: Path) -> str:
    """The tables over the finished seeds."""
    finished = sorted(path.parent for path in runs.glob("seed*/report.md"))
    return count_winners(finished).markdown() if finished else f"no finished run in {runs}\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study and prints its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", help="folder with the GLUE tasks")
    parser.add_argument("--runs", type=Path, default=Path("runs/stability"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="extra", help="more overrides")
    parser.add_argument("--collect", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    if not arguments.collect:
        if arguments.source is None:
            parser.error("--source FOLDER is needed to run; --collect only reads")
        run_seeds(arguments.source, arguments.runs, arguments.seeds, arguments.extra)
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
