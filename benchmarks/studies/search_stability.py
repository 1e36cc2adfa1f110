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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peml.errors import RunError
from peml.records.metrics import Discretisation
from peml.records.run import GenotypeRecord
from peml.reporting.run.outcomes import list_outcomes
from peml.reporting.run.results import RunRecord, load_run

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


_SKIP = "skip"


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


@dataclass
class Winners:
    """The choices of several searches over one space.

    Attributes:
        runs: Number of runs.
        options: Decision: option: in how many runs it was chosen.
        guarded: Decision: in how many runs a guard overruled the best option.
        undecided: Decision: in how many runs its weights were too near to each other to choose.
        collapsed: Names of the runs in which every cell is skip.
        unwarranted: ``run: cell`` of every skip that wasn't the option whose removal hurts most;
            only runs with scores are in it.
        scored: Number of runs with scores.
        gaps: Change of the mean development metric by discretisation, a run.
    """

    runs: int = 0
    options: dict[str, Counter[str]] = field(default_factory=dict)
    guarded: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    collapsed: list[str] = field(default_factory=list)
    unwarranted: list[str] = field(default_factory=list)
    scored: int = 0
    gaps: list[float | None] = field(default_factory=list)

    def operations(self) -> Counter[str]:
        """How many cells of all runs each operation won, most first."""
        cells = (count for name, count in self.options.items() if name.startswith("cell."))
        return sum(cells, Counter[str]())

    def markdown(self) -> str:
        """Tables: operations by cell, then the other decisions; what guards did below."""
        cells = [name for name in self.options if name.startswith("cell.")]
        lines = [
            f"| operation | {' | '.join(cells)} | all |",
            f"|---|{'--:|' * len(cells)}--:|",
        ]
        for operation, total in self.operations().most_common():
            counts = " | ".join(str(self.options[cell][operation]) for cell in cells)
            lines.append(f"| {operation} | {counts} | {total} |")
        lines += ["", f"| decision | chosen in how many of {self.runs} runs |", "|---|---|"]
        for name, options in self.options.items():
            if name not in cells:
                shares = ", ".join(f"{option} {count}" for option, count in options.most_common())
                lines.append(f"| {name} | {shares} |")
        gaps = [gap for gap in self.gaps if gap is not None]
        lines += [
            "",
            f"* every cell skip: {', '.join(self.collapsed) or 'in no run'}",
            f"* skips that were not the best by their scores ({self.scored} runs with scores): "
            f"{', '.join(self.unwarranted) or 'none'}",
            f"* overruled by a guard: {_counts(self.guarded)}",
            f"* undecided, in how many runs: {_counts(self.undecided)}",
            "* change of the development mean by discretisation: "
            f"{', '.join(f'{gap:+.4f}' for gap in gaps)}",
        ]
        return "\n".join(lines) + "\n"


def count_winners(folders: Sequence[Path]) -> Winners:
    """Reads finished runs and counts what their searches chose.

    Args:
        folders: Run folders of one method and search space.

    Raises:
        RunError: A run isn't finished or searched nothing.
    """
    winners = Winners()
    for folder in folders:
        run = load_run(folder)
        if run.genotype is None or run.history.discretise is None:
            raise RunError(
                f"{folder}: this run searched nothing",
                allowed="runs of a method with a search",
                action="leave the folder out",
            )
        _count(winners, run, run.history.discretise, run.genotype)
    return winners


def _count(
    winners: Winners, run: RunRecord, record: Discretisation, genotype: GenotypeRecord
) -> None:
    winners.runs += 1
    winners.gaps.append(record.gap)
    winners.guarded.update(record.guarded)
    winners.undecided.update(o.name for o in list_outcomes(run.history) if o.undecided)
    for name, option in record.choices.items():
        winners.options.setdefault(name, Counter())[option] += 1
    if all(cell == _SKIP for cell in genotype.cells):
        winners.collapsed.append(run.name)
    found_by = genotype.found_by if isinstance(genotype.found_by, dict) else {}
    scores = found_by.get("scores")
    if not isinstance(scores, dict):
        return
    winners.scored += 1
    for number, cell in enumerate(genotype.cells):
        of_cell = scores.get(f"cell.{number}", {})
        if cell == _SKIP and of_cell and max(of_cell, key=of_cell.__getitem__) != _SKIP:
            winners.unwarranted.append(f"{run.name}: cell.{number}")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "nothing"


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
