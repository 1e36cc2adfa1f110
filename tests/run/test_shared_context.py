"""One context for all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peml.config.loading import load_config
from peml.errors import RunError
from peml.export import add_task
from peml.files import read_tensors
from peml.methods.context.correction import Correction
from peml.methods.context.network import ContextNetwork
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings
from peml.run.pipeline import fit
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from peml.serving import load
from peml.tasks import TaskRenderer
from peml.testing import TINY_TASKS
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e


_CORRECTED = "correction: {trains: values}"


def _section(more: str = "", name: str = "lora+context", **context: object) -> str:
    settings = {"shots": 7, "scope": "shared", **context}
    inner = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"method={{name: {name}, lora: {{r: 2}}, context: {{{inner}}}, {more}}}"


def _prepared(distinct_toys: Path, **section: Any) -> Prepared:
    return prepare(load_config(toy_config(distinct_toys, "causal", "lora"), [_section(**section)]))


def test_rows_of_all_tasks_are_shown_in_turn(distinct_toys: Path) -> None:
    held, alone = _prepared(distinct_toys), _prepared(distinct_toys, scope="task", shots=2)
    own = [item.task.shots.examples for item in alone.loaded.data]
    first, second = zip(*own, strict=True)
    shown = [*first, *second[:2]]  # seven rows of five tasks
    for number, task in enumerate(held.tasks):
        assert TaskRenderer(task).context() == "\n\n".join(map(str, shown))
        rows = 2 if number < 2 else 1
        assert len(task.shots.rows) == rows
        both = len(held.loaded.data[number].train), len(held.loaded.data[number].development)
        assert sum(both) == 40 - rows
    planned = held.plan({}).tasks
    assert len({task.context.text for task in planned if task.context is not None}) == 1
    assert not held.method.needs_task_id


def test_all_tasks_instructions_stand_in_front() -> None:
    tasks = [
        task.model_copy(update={"header": f"Say {task.name}.", "splits": splits})
        for task, splits in zip(
            TINY_TASKS,
            [
                t.splits.model_copy(update={"train": "train" if n else None})
                for n, t in enumerate(TINY_TASKS)
            ],
            strict=True,
        )
    ]
    settings = ContextSettings(scope="shared", shots=3, instruction=True)
    held = settings.hold(tasks)
    assert {task.header for task in held} == {"Say mood.\n\nSay same.\n\nSay closeness."}
    assert [task.shots.count for task in held] == [0, 2, 1]  # the first has no train rows
    for other in ({"draw": "step"}, {"leave_one_out": "exact"}):
        with pytest.raises(ValidationError, match="scope: shared needs draw: once"):
            ContextSettings.model_validate({"scope": "shared", **other})


def test_mixed_rows_meet_it_in_one_piece(distinct_toys: Path) -> None:
    prepared = _prepared(distinct_toys, of="adapted")
    model = attach(prepared, torch.device("cpu"), None).train()
    part, batch = model.parts["context"], prepared.stream.fetch(prepared.stream.plan(0)[0])
    assert isinstance(part, ContextPart)
    model(batch).loss.backward()
    contexts = part.injection.contexts
    assert contexts is not None
    assert len(contexts.order(len(batch.task_ids)).tasks) == 1
    assert len(set(batch.task_ids.tolist())) > 1
    assert all(p.grad is not None for group in model.groups() for p in group.parameters)


@pytest.mark.parametrize(
    ("name", "more"),
    [("lora+context", _CORRECTED), ("peml", "search: {mode: none}, prefix: {width: 8}")],
)
def test_what_is_trained_on_it_is_trained_once(distinct_toys: Path, name: str, more: str) -> None:
    prepared = _prepared(distinct_toys, name=name, more=more)
    model = attach(prepared, torch.device("cpu"), None).train()
    batch = prepared.stream.fetch(prepared.stream.plan(0)[0])
    with torch.no_grad():
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model(batch).loss.backward()
    on_top = model.parts["correction" if name == "lora+context" else "prefix"]
    assert isinstance(on_top, Correction | ContextNetwork)
    (own,) = on_top.last if isinstance(on_top, Correction) else on_top.embeddings
    assert own.grad is not None
    assert own.grad.any()
    assert not prepared.method.needs_task_id


@pytest.mark.parametrize("more", ["", _CORRECTED])
def test_a_run_keeps_one_context_and_needs_no_task(
    distinct_toys: Path, tmp_path: Path, more: str
) -> None:
    path = toy_config(distinct_toys, "causal", "lora", training={"epochs": 1})
    run = fit(load_config(path, [_section(more)]), tmp_path / "run")
    assert not run.results.needs_task_id
    assert run.results.export is not None  # the trained model and the one read back agree
    assert list(read_tensors(run.folder / "model/contexts.safetensors")) == ["*"]
    predictor = load(run.folder)
    assert len({TaskRenderer(task).context() for task in predictor.tasks}) == 1
    task = predictor.task("mood").model_copy(update={"name": "new"})
    with pytest.raises(RunError, match="were trained" if more else "its tasks share one context"):
        add_task(run.folder, task, 2)
