"""A study's later trials have the rows, tasks and base model of the earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from peml.tuning.pipeline import tune
from peml.tuning.settings import parse_study
from tests.tuning.studies import toy_study


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    return toy_study(tmp_path / "toys", budget={"trials": 1})


def _swap_first_rows(raw: dict[str, Any]) -> None:
    path = Path(raw["run"]["tasks"]["suite"]).parent / "data" / "mood" / "train.jsonl"
    one, other, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([other, one, *rest]))


@pytest.mark.e2e
def test_a_trial_that_is_added_is_not_run_on_changed_rows(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    output, more = tmp_path / "study", raw | {"budget": {"trials": 2}}
    tune(parse_study(raw), output)
    _swap_first_rows(raw)
    with pytest.raises(RunError, match="the rows of task mood's train split changed"):
        tune(parse_study(more), output)
    with pytest.raises(RunError, match="the rows of task mood's train split changed"):
        tune(parse_study(raw), output)  # nothing is left to run: its results are of other rows
    assert len(tune(parse_study(raw), output, report_only=True).study.trials) == 1
    _swap_first_rows(raw)
    assert len(tune(parse_study(more), output).study.trials) == 2


@pytest.mark.e2e
def test_a_driver_that_joins_a_study_has_the_same_rows(raw: dict[str, Any], tmp_path: Path) -> None:
    shared = raw | {"storage": {"url": f"sqlite:///{tmp_path}/study.db"}}
    tune(parse_study(shared), tmp_path / "one")
    _swap_first_rows(raw)
    with pytest.raises(RunError, match="the rows of task mood's train split changed"):
        tune(parse_study(shared | {"budget": {"trials": 2}}), tmp_path / "other")
