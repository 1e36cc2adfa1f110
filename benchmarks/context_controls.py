"""Controls for a study of contexts: the same rows, with demonstrations that say something else.

Reads a comparison that has a method with a context, and writes a second one to OUT. It trains,
chooses and reports on the very same rows, and each suite of it has other texts in front of them:

* `right`: what the method itself would show; it has to score as in the first comparison.
* `other-task`: the demonstrations of the next task, in that task's template.
* `wrong-labels`: the task's own, each with an answer that is not its own.
* `shuffled-labels`: the task's own, with their answers dealt out at random. Where each row has
  options of its own, one of these at random.

    python benchmarks/context_controls.py benchmarks/studies/contexts.yaml OUT \
        --set run.tasks.source=FOLDER
    peml compare OUT/study.yaml

The texts are headers of the written tasks, so the method holds them by `instruction: true`. The
rows of the demonstrations are left out of the written train files, so OUT/data can also train a
method without a context on the rows that are left. Answers are drawn with a seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from peml.comparison.settings import ComparisonConfig, load_comparison
from peml.data import select_tasks
from peml.data.opening import open_source
from peml.data.rows import Rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_shots, load_source
from peml.errors import ConfigError
from peml.methods.base import MethodSettings
from peml.methods.context.settings import ContextSettings
from peml.methods.registry import build_method
from peml.settings import Settings
from peml.tasks import SOURCE_ROW, Shots, Suite, Task, TaskRenderer
from peml.tasks.label import right_option
from peml.tasks.template import join_answer

CONTROLS = ("right", "other-task", "wrong-labels", "shuffled-labels")


@dataclass(frozen=True)
class Solved:
    """A demonstration; without options where its answer is a text."""

    question: str
    answer: str
    options: tuple[str, ...]

    def with_answer(self, answer: str) -> str:
        """The text that shows it, with an answer."""
        return self.question + join_answer(self.question, answer)


def read_solved(task: Task, settings: TasksSettings) -> list[Solved]:
    """The demonstrations of a task, whose shots have been loaded."""
    read, _ = open_source(task, settings.source, or_hub=settings.missing == "hub")
    rows = read((str(task.shots.split),)).rows
    alone = task.model_copy(update={"header": None, "shots": Shots(), "context": False})
    renderer, solved = TaskRenderer(alone), []
    for number in task.shots.rows:
        example = renderer.render(rows[number], number)
        options = example.options
        answer = options[right_option(task, example)] if options else str(example.label)
        solved.append(Solved(example.prompt, answer, options))
    return solved


def wrong(solved: Sequence[Solved], random: Random) -> list[str]:
    """Each with an answer other than its own: one of its options, or another row's text."""
    answers = [each.answer for each in solved]
    others = ([o for o in each.options or answers if o != each.answer] for each in solved)
    return [
        each.with_answer(random.choice(found)) for each, found in zip(solved, others, strict=True)
    ]


def shuffled(solved: Sequence[Solved], random: Random) -> list[str]:
    """With answers that say nothing of the question; labels keep their numbers of rows."""
    answers = [each.answer for each in solved]
    random.shuffle(answers)
    if len({each.options for each in solved}) > 1:
        answers = [random.choice(each.options) for each in solved]
    return [each.with_answer(answer) for each, answer in zip(solved, answers, strict=True)]


def control_texts(
    control: str, shown: Sequence[Task], solved: Sequence[Sequence[Solved]], seed: int
) -> list[tuple[str, ...]]:
    """The demonstrations of each task in a control."""
    texts: list[tuple[str, ...]] = [tuple(map(str, task.shots.examples)) for task in shown]
    if control == "other-task":
        return [*texts[1:], *texts[:1]]
    if control == "right":
        return texts
    change = wrong if control == "wrong-labels" else shuffled
    return [
        tuple(change(rows, Random(f"{control}-{seed}-{task.name}")))
        for task, rows in zip(shown, solved, strict=True)
    ]


def with_text(task: Task, shown: Task, texts: tuple[str, ...]) -> Task:
    """The task with its context, of other demonstrations, as its header."""
    held = shown.model_copy(update={"shots": Shots(examples=texts)})
    header = "{% raw %}" + TaskRenderer(held).context() + "{% endraw %}"
    return task.model_copy(update={"header": header, "shots": Shots()})


def write_rows(folder: Path, task: Task, settings: TasksSettings) -> None:
    """A task's train rows, without those that are shown, and its reported rows."""
    hub = settings.missing == "hub"
    train, reported, _ = load_source(task, settings.source, or_hub=hub)
    splits: list[tuple[str | None, Rows]] = [
        (task.splits.train, train),
        (task.splits.reported[0], reported),
    ]
    for split, rows in splits:
        if split is not None:
            kept = [name for name in rows.table.column_names if name != SOURCE_ROW]
            write_split(folder / task.name / f"{split}.jsonl", rows.iterate(kept))


def write_split(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def method_with_context(
    config: ComparisonConfig, label: str | None
) -> tuple[str, MethodSettings, ContextSettings]:
    """The method whose context is controlled: the first that has one, or that of a label."""
    for name, settings in config.methods.items():
        context = build_method(settings).context
        if context is not None and label in (None, name):
            if context.draw != "once" or context.leave_one_out or context.scope != "task":
                raise ConfigError(
                    f"the context of {name} is drawn anew, shared, or trained on",
                    allowed="draw: once, scope: task, no leave_one_out",
                    action="name another method with --method",
                )
            return name, settings, context
    raise ConfigError(
        f"no method {label or 'of the comparison'} has a context",
        allowed="lora+context, or peml with a context",
        action="add one to the comparison, or correct --method",
    )


def write_controls(config: ComparisonConfig, label: str | None, seed: int, out: Path) -> Path:
    """Writes suites, rows and comparison; returns the comparison's file."""
    name, method, context = method_with_context(config, label)
    settings = next(iter(config.suites.values()))
    tasks = select_tasks(settings)
    hub = settings.missing == "hub"
    held = context.hold(tasks)
    for task in held:
        write_rows(out / "data", task, settings)
    shown = [load_shots(task, settings.source, or_hub=hub) for task in held]
    solved = [read_solved(task, settings) for task in shown]
    changed: dict[str, Any] = {"source": str((out / "data").resolve()), "bare": False}
    changed |= {"include": (), "exclude": (), "files": (), "missing": "refuse"}
    if settings.rows is not None:
        changed["rows"] = settings.rows - context.shots
    suites = {}
    for control in CONTROLS:
        texts = control_texts(control, shown, solved, seed)
        members = tuple(map(with_text, tasks, shown, texts))
        path = (out / f"{control}.yaml").resolve()
        suite = _dump(Suite(name=control, tasks=members))
        path.write_text(yaml.safe_dump(suite, sort_keys=False, width=100), encoding="utf-8")
        suites[control] = settings.model_copy(update={**changed, "suite": str(path)})
    by_header = context.model_copy(update={"shots": 0, "instruction": True, "choose": "balanced"})
    written = method.model_copy(update={"context": by_header})
    known = {"suites": suites, "methods": {name: written}, "reference": None, "focus": None}
    path = out / "study.yaml"
    study = _dump(config.model_copy(update={**known, "unmatched": (), "match": "none"}))
    study["methods"][name] |= {"name": method.name}
    path.write_text(yaml.safe_dump(study, sort_keys=False, width=100), encoding="utf-8")
    return path


def _dump(settings: Settings) -> Any:
    return settings.model_dump(mode="json", exclude_defaults=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the controls and says how to run them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="a comparison with a method that has a context")
    parser.add_argument("out", type=Path, help="folder for suites, rows and comparison")
    parser.add_argument("--method", help="its label; default: the first that has a context")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--seed", type=int, default=0, help="of the answers that are drawn")
    arguments = parser.parse_args(argv)
    config = load_comparison(arguments.study, arguments.set)
    path = write_controls(config, arguments.method, arguments.seed, arguments.out)
    print(f"peml compare {path}")


if __name__ == "__main__":
    main()
