from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from peml.data.settings import TasksSettings, select_tasks
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
