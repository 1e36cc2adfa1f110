from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from peml.data.settings import TasksSettings, select_tasks
from peml.data.sources import load_source
from peml.errors import ConfigError
from tests.tasks.examples import sentiment_fields


def _names(**settings: object) -> list[str]:
    return [task.name for task in select_tasks(TasksSettings.model_validate(settings))]


def test_include_and_exclude_keep_the_suites_order() -> None:
    assert _names(suite="glue", include=["rte", "cola"]) == ["cola", "rte"]
    assert "wnli" not in _names(suite="glue", exclude=["wnli"])
    assert len(_names(suite="glue", exclude=["wnli"])) == 8


def test_own_files_are_added(tmp_path: Path) -> None:
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields()))
    assert _names(files=[str(file)]) == ["mood"]
    assert _names(suite="demo", files=[str(file)], include=["mood", "clock"]) == ["clock", "mood"]
    with pytest.raises(ConfigError, match="'mood' is there twice"):
        _names(files=[str(file), str(file)])


def test_what_a_runs_chat_leaves_out_is_the_tasks_own(tmp_path: Path) -> None:
    file = tmp_path / "mood.yaml"
    own = {"system": "Judge films.", "variables": {"thinks": True, "brief": True}}
    file.write_text(yaml.safe_dump({**sentiment_fields(), "chat": own}))

    def asked(chat: object) -> object:
        settings = TasksSettings.model_validate({"files": [str(file)], "chat": chat})
        found = select_tasks(settings)[0].chat
        return found and found.model_dump()

    assert asked(True) == own
    assert asked(False) is None
    variables = {"thinks": False, "brief": True}
    assert asked({"variables": {"thinks": False}}) == own | {"variables": variables}
    assert asked({"system": "Be brief."}) == own | {"system": "Be brief."}


def test_unknown_names_come_all_at_once_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        _names(suite="glue", include=["sst-2"], exclude=["colla"])
    assert "tasks.include: there is no task 'sst-2'. Did you mean 'sst2'" in error.value.problem
    assert "tasks.exclude: there is no task 'colla'. Did you mean 'cola'" in error.value.problem


def test_leaving_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave no task"):
        _names(suite="glue", include=["rte"], exclude=["rte"])


def test_a_suite_or_files_must_be_given() -> None:
    with pytest.raises(ValidationError, match="give suite"):
        TasksSettings()


def test_every_field_is_described() -> None:
    assert all(field.description for field in TasksSettings.model_fields.values())


def test_several_suites_are_joined_and_their_common_names_told_apart() -> None:
    settings = TasksSettings(suite=("glue", "superglue", "commonsense"), exclude=("superglue-rte",))
    tasks = {task.name: task for task in select_tasks(settings)}
    assert {"sst2", "glue-rte", "superglue-boolq", "commonsense-boolq", "cb", "piqa"} <= set(tasks)
    assert not {"rte", "boolq", "superglue-rte"} & set(tasks)
    assert {tasks[name].group for name in ("sst2", "glue-rte")} == {"glue"}
    assert tasks["commonsense-boolq"].group == "commonsense"


def test_a_name_that_several_suites_have_is_to_be_said_with_its_suite() -> None:
    with pytest.raises(ConfigError, match="no task 'rte'"):
        _names(suite=["glue", "superglue"], include=["rte"])


def test_one_suite_in_a_list_is_as_one_alone() -> None:
    assert select_tasks(TasksSettings(suite=("glue",))) == select_tasks(TasksSettings(suite="glue"))


@pytest.mark.parametrize("place", ["superglue-rte", "superglue/rte"])
def test_a_source_of_several_suites_has_a_folder_a_suite(tmp_path: Path, place: str) -> None:
    rows = [{"premise": "A dog barks.", "hypothesis": "It is loud.", "label": 0}] * 4
    for name in ("train", "validation"):
        file = tmp_path / place / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TasksSettings(suite=("glue", "superglue"), include=("superglue-rte",))
    train, _, origin = load_source(select_tasks(settings)[0], str(tmp_path))
    assert len(train) == 4
    assert origin.name == str(tmp_path / place)
