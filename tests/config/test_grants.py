"""Whether a model's code may run is said by who calls, never by a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from peml.comparison.cells import ComparisonFolder
from peml.comparison.matching import Matching
from peml.comparison.settings import parse_comparison
from peml.config.grants import dump_shared
from peml.config.loading import load_config, parse_config
from peml.run.folder import RunFolder
from peml.tuning.folder import StudyFolder
from tests.tuning.studies import MADE_UP, made_up

RUN = {"model": {"trust_remote_code": True}, "tasks": {"suite": "demo"}}


def _written(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.glob("*.yaml"))


def test_a_config_of_ones_own_grants(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(RUN))
    assert load_config(file).model.trust_remote_code


def test_a_run_folder_keeps_no_grant_and_goes_on_with_one(tmp_path: Path) -> None:
    config = parse_config(RUN)
    folder = RunFolder(tmp_path)
    folder.create(config)
    assert "trust" not in _written(tmp_path)
    assert folder.holds(config)
    assert folder.holds(parse_config(RUN | {"model": {}}))


@pytest.mark.parametrize("beside", ["environment.json", "plan.json"])
def test_a_run_folder_grants_nothing(beside: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(RUN))
    assert not RunFolder(tmp_path).config().model.trust_remote_code
    (tmp_path / beside).write_text("{}")
    assert not load_config(file).model.trust_remote_code
    assert load_config(file, ["model.trust_remote_code=true"]).model.trust_remote_code


def test_a_study_keeps_no_grant_and_goes_on_with_one(tmp_path: Path) -> None:
    config = made_up(run=MADE_UP["run"] | {"model": {"trust_remote_code": True}})
    assert config.run.model.trust_remote_code
    folder = StudyFolder(tmp_path)
    folder.create(config)
    assert "trust" not in _written(tmp_path)
    assert "trust" not in str(config.definition())
    assert folder.holds(config)
    assert folder.holds(made_up())


def test_a_comparison_keeps_no_grant_and_goes_on_with_one(tmp_path: Path) -> None:
    raw = {"run": RUN, "methods": {"lora": {}, "full": {}}, "seeds": [0]}
    config = parse_comparison(raw)
    assert config.run.model.trust_remote_code
    folder = ComparisonFolder(tmp_path)
    folder.create(config, Matching(budget=None, steps={}, tasks={}, suites={}))
    assert "trust" not in _written(tmp_path)
    assert folder.holds(config)


def test_the_rest_of_a_config_is_kept() -> None:
    config = parse_config(RUN)
    again = parse_config(yaml.safe_load(dump_shared(config)))
    settings = config.model.model_copy(update={"trust_remote_code": False})
    assert again == config.model_copy(update={"model": settings})
