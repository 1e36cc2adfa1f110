"""Tasks that a model was never trained on, answered from solved rows alone.

Reads the finished runs of `benchmarks/studies/new_tasks.yaml` and gives each of them tasks that it
did not train on, with the same few solved rows of each:

* `MODEL, nothing shown`: the base model, or the base model with the trained LoRA merged into it,
  reads a new row alone.
* `MODEL, rows in the prompt`: the same, with the solved rows in front of every row, as text.
* A run with contexts: `peml add-task` computes the new task's context from the solved rows.

The solved rows differ by seed, the scored ones don't. Scores are accuracies.

    python benchmarks/new_tasks.py RUNS... --source FOLDER --out OUT

RUNS are run folders named METHOD-seedN, or folders of comparisons that have them. Answers are kept
in OUT, so that a second call scores what is new only.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml
from context_controls import write_split
from rich.console import Console
from rich.table import Table

import peml
from peml.analysis.statistics import PairedTask, paired_difference
from peml.data.sources import load_source
from peml.evaluation import read_predictions
from peml.evaluation.metrics import METRICS
from peml.export import add_task, export_model, find_model
from peml.tasks import SOURCE_ROW, Task, TaskRenderer, load_suite
from peml.tasks.label import right_option

TASKS = (
    "glue/cola",
    "superglue/cb",
    "superglue/copa",
    "commonsense/boolq",
    "commonsense/arc-challenge",
    "commonsense/winogrande",
)
SHOTS, ROWS, DEVELOPMENT = 16, 200, 20
_METRIC = "accuracy"
_CELL = re.compile(r"(?P<method>.+)-seed(?P<seed>\d+)$")

Answers = dict[str, list[int]]
"""Indices of predicted, or right, labels or options of each task's rows."""


@dataclass(frozen=True)
class NewTasks:
    """The tasks' definitions, and a folder with their solved and their scored rows.

    The train files begin with the solved rows; a few more stand in for a development split, which
    nothing reads.
    """

    tasks: tuple[Task, ...]
    folder: Path

    @property
    def files(self) -> list[str]:
        """Their definitions."""
        return [str(self.folder / f"{task.name}.yaml") for task in self.tasks]

    def reported(self, task: Task) -> list[dict[str, Any]]:
        """The rows that are scored."""
        rows = (self.folder / task.name / f"{task.splits.reported[0]}.jsonl").read_text("utf-8")
        return [json.loads(row) for row in rows.splitlines()]

    def gold(self) -> Answers:
        """The right answers."""
        return {task.name: right_answers(task, self.reported(task)) for task in self.tasks}


def right_answers(task: Task, rows: Sequence[dict[str, Any]]) -> list[int]:
    """The index of each row's right label or option."""
    renderer = TaskRenderer(task)
    examples = (renderer.render(row, number) for number, row in enumerate(rows))
    return [right_option(task, example) for example in examples]


def balanced(task: Task, rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows at random, first `SHOTS` that show every answer about equally often."""
    random = Random(f"{task.name}-{seed}")
    drawn = random.sample(rows, len(rows))
    by_answer = defaultdict[int, list[dict[str, Any]]](list)
    for row, answer in zip(drawn, right_answers(task, drawn), strict=True):
        by_answer[answer].append(row)
    turns = [
        group[turn] for turn in range(SHOTS) for group in by_answer.values() if turn < len(group)
    ]
    shown = random.sample(turns[:SHOTS], SHOTS)
    return shown + [row for row in drawn if row not in shown]


def lay_out(names: Sequence[str], source: str, seed: int, folder: Path) -> NewTasks:
    """Writes the tasks of a seed."""
    tasks = []
    for name in names:
        suite, _, short = name.partition("/")
        task = load_suite(suite).task(short)
        train, reported, _ = load_source(task, source)
        columns = [column for column in train.table.column_names if column != SOURCE_ROW]
        scored = Random(task.name).sample(range(len(reported)), min(ROWS, len(reported)))
        first = balanced(task, list(train.iterate(columns)), seed)[: SHOTS + DEVELOPMENT]
        write_split(folder / task.name / f"{task.splits.train}.jsonl", first)
        write_split(
            folder / task.name / f"{task.splits.reported[0]}.jsonl",
            reported.select(sorted(scored)).iterate(columns),
        )
        task = task.model_copy(update={"metrics": (_METRIC,)})
        definition = task.model_dump(mode="json", exclude_defaults=True)
        (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
        tasks.append(task)
    return NewTasks(tuple(tasks), folder)


def answer_as_is(model: str, new: NewTasks, precision: str, shots: int, run: Path) -> Answers:
    """Answers of a model as it is, with solved rows in its prompt or without."""
    peml.fit(
        {
            "model": {"name": model},
            "tasks": {"files": new.files, "source": str(new.folder), "shots": shots},
            "method": {"name": "frozen"},
            "training": {"precision": precision},
            "evaluation": {"ablations": False},
        },
        run,
    )
    return {
        task.name: [int(index) for index in read_predictions(run, task.name).predicted]
        for task in new.tasks
    }


def answer_with_contexts(cell: Path, new: NewTasks, folder: Path) -> Answers:
    """Answers of a copy of a run's model that the tasks were added to."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(find_model(cell), folder)
    for task in new.tasks:
        add_task(folder, task, SHOTS, str(new.folder), choose="first")
    predictor = peml.load(folder)
    answers: Answers = {}
    for task in new.tasks:
        rows, renderer = new.reported(task), TaskRenderer(task)
        answers[task.name] = []
        for number, (row, found) in enumerate(
            zip(rows, predictor.predict(task.name, rows), strict=True)
        ):
            own = task.type.has_own_options
            options = renderer.render(row, number).options if own else task.labels
            answers[task.name].append(options.index(str(found.value)))
    shutil.rmtree(folder)
    return answers


def kept(path: Path, answer: Callable[[], Answers]) -> Answers:
    """Answers out of a file, which is written where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(answer()), encoding="utf-8")
    answers: Answers = json.loads(path.read_text(encoding="utf-8"))
    return answers


def score_seed(
    seed: int, cells: Iterable[Path], model: str, precision: str, new: NewTasks, out: Path
) -> dict[str, Answers]:
    """The answers of all ways with the rows and runs of a seed."""
    found: dict[str, Answers] = {"right": new.gold()}
    place = out / f"seed{seed}"

    def as_is(label: str, name: str, loaded: str) -> None:
        for shots, shown in ((0, "nothing shown"), (SHOTS, "rows in the prompt")):
            run = place / "runs" / f"{name}-{shots}"
            answer = partial(answer_as_is, loaded, new, precision, shots, run)
            found[f"{label}, {shown}"] = kept(place / f"{name}-{shots}.json", answer)

    as_is("base", "base", model)
    for cell in cells:
        name = cell.name.partition("-seed")[0]
        plan = json.loads((cell / "plan.json").read_text(encoding="utf-8"))
        if plan["tasks"][0]["context"] is not None:
            answer = partial(answer_with_contexts, cell, new, place / "model")
            found[name] = kept(place / f"{name}.json", answer)
            continue
        merged = place / "merged" / name
        if not merged.exists():
            export_model(cell, merged, "transformers")
        as_is(name, name, str(merged))
    return found


def find_cells(folders: Iterable[Path]) -> dict[int, list[Path]]:
    """Finished runs by seed: the folders themselves, or what comparisons have in them."""
    cells = defaultdict[int, list[Path]](list)
    for folder in folders:
        for path in [folder, *sorted(folder.glob("cells/*/*"))]:
            match = _CELL.match(path.name)
            if match and (path / "model").is_dir():
                cells[int(match["seed"])].append(path)
    return cells


def print_scores(seeds: Sequence[dict[str, Answers]], reference: str, console: Console) -> None:
    """The mean over seeds of each way and task, and the difference to the reference."""
    gold = [seed["right"] for seed in seeds]
    ways = [way for way in seeds[0] if way != "right" and all(way in seed for seed in seeds)]
    table = Table("answers", *gold[0], "mean", f"to {reference}", title=f"{len(seeds)} seeds")
    for way in ways:
        scores = [
            sum(
                METRICS[_METRIC](right[task], seed[way][task])
                for right, seed in _pairs(gold, seeds)
            )
            / len(seeds)
            for task in gold[0]
        ]
        pairs = {
            task: PairedTask(
                _METRIC,
                gold[0][task],
                [seed[way][task] for seed in seeds],
                [seed[reference][task] for seed in seeds],
            )
            for task in gold[0]
        }
        mean = paired_difference(pairs).mean
        interval = f"{100 * mean.value:+.1f} [{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]"
        cells = [f"{100 * score:.1f}" for score in (*scores, sum(scores) / len(scores))]
        table.add_row(way, *cells, "" if way == reference else interval)
    console.print(table)


def _pairs(
    gold: Sequence[Answers], seeds: Sequence[dict[str, Answers]]
) -> list[tuple[Answers, dict[str, Answers]]]:
    return list(zip(gold, seeds, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Scores the runs and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or comparisons of them")
    parser.add_argument("--source", required=True, help="folder with one folder per task or suite")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and answers")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="SUITE/TASK")
    parser.add_argument("--model", default="smollm2", help="the base model of the runs")
    parser.add_argument("--precision", default="bf16", help="of models without a context")
    parser.add_argument("--reference", default="base, rows in the prompt")
    arguments = parser.parse_args(argv)
    seeds = []
    for seed, cells in sorted(find_cells(arguments.runs).items()):
        place = arguments.out / f"rows{seed}"
        new = lay_out(arguments.tasks, arguments.source, seed, place)
        model, precision = arguments.model, arguments.precision
        seeds.append(score_seed(seed, cells, model, precision, new, arguments.out))
    print_scores(seeds, arguments.reference, Console(width=160))


if __name__ == "__main__":
    main()
