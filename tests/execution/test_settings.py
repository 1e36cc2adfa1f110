"""Settings of executors that don't go together are refused, each with a way out."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import ValidationError

from peml.comparison.settings import parse_comparison
from peml.errors import ConfigError, PemlError
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "inline", "jobs": 2}, "inline runs one job at a time, and jobs is 2"),
        ({"address": "auto"}, "address can't be used with kind processes: set kind: ray"),
        ({"gpus": 1}, "gpus can't be used with kind processes"),
        ({"kind": "inline", "address": "auto", "gpus": 1}, "address and gpus can't be used"),
        ({"kind": "slurm"}, "'inline', 'processes' or 'ray'"),
        ({"jobs": 0}, "greater than or equal to 1"),
        ({"kind": "ray", "retries": -1}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ExecutionSettings(**settings)


def test_a_comparison_checks_them_with_its_own_number_of_jobs() -> None:
    raw = {"run": {"tasks": {"suite": "glue"}}, "methods": {"lora": None}, "jobs": 2}
    assert parse_comparison(raw).executor() == ExecutionSettings(jobs=2)
    with pytest.raises(ConfigError, match=r"execution: .*inline runs one job at a time"):
        parse_comparison(raw | {"execution": {"kind": "inline"}})


def test_ray_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PemlError, match=r"pip install 'peml\[ray\]'"):
        make_executor(ExecutionSettings(kind="ray"))
