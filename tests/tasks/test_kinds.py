"""What depends on a task's type, said by the type itself."""

from __future__ import annotations

import pickle

import pytest
from pydantic import TypeAdapter

from peml.tasks import Task, TaskType
from peml.tasks.kinds import BELONGING


@pytest.mark.parametrize("kind", TaskType)
def test_a_type_is_known_by_its_name_alone(kind: TaskType) -> None:
    adapter = TypeAdapter(TaskType)
    assert adapter.validate_python(str(kind)) is kind is pickle.loads(pickle.dumps(kind))
    assert adapter.dump_json(kind) == f'"{kind.value}"'.encode()
    assert kind.value in adapter.json_schema()["enum"]


@pytest.mark.parametrize("kind", TaskType)
def test_a_types_facts_go_together(kind: TaskType) -> None:
    told = (kind.has_labels, kind.has_own_options, kind.has_scale, kind.generates)
    assert sum(told) == 1
    assert kind.metrics == tuple(sorted(kind.metrics))
    assert set(kind.settings) <= set(BELONGING)
    assert set(BELONGING) <= set(Task.model_fields) | {"columns.choices", "columns.keys"}
    assert (kind.evaluated_as == "generate") == kind.generates
