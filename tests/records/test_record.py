"""One class writes and reads each file; what is damaged is named, what is older is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.comparison.latency import Latency
from peml.errors import RunError
from peml.records.comparison import ComparisonRecord
from peml.records.plan import Plan
from peml.records.record import FileRecord
from peml.records.run import Ending, Environment, Results, Spent, TaskScored
from peml.records.study import StudyRecord
from peml.run.state import SessionState
from peml.training.loop import Progress
from peml.tuning.folder import DriverRecord
from tests.examples.comparisons import write_example_comparison
from tests.examples.runs import write_example_run
from tests.examples.studies import write_example_study
from tests.records.made_up import results_of

_STATE = SessionState(
    phase="search",
    genotype=None,
    search={"memory": {}},
    progress=Progress(step=3, losses={"mood": [0.5, 2]}),
    stream={"epoch": 0, "batch": 3},
    log_offset=17,
    cost=Spent(seconds={"search": 1.0}),
)


@pytest.mark.parametrize(
    "record",
    [
        _STATE,
        Ending(status="pruned", step=3, value=0.5),
        Environment(versions={"peml": "0.1.0"}, device="cpu"),
        Latency(rows=32, threads=1, milliseconds={"glue": {"lora": 4.1}}),
        DriverRecord(id="a", seconds=2.5),
    ],
    ids=lambda record: type(record).__name__,
)
def test_what_is_written_is_read(record: FileRecord, tmp_path: Path) -> None:
    record.write(tmp_path, "file.json")
    assert type(record).read(tmp_path, "file.json") == record


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Results, write_example_run),
        (Plan, write_example_run),
        (ComparisonRecord, write_example_comparison),
        (StudyRecord, write_example_study),
    ],
)
def test_what_is_read_is_written(
    kind: type[FileRecord], example: Callable[[Path], Path], tmp_path: Path
) -> None:
    record = kind.read(example(tmp_path))
    record.write(tmp_path)
    assert kind.read(tmp_path) == record


def test_a_score_with_a_part_off_has_a_key_of_its_own_in_the_file(tmp_path: Path) -> None:
    written = results_of({"mood": 0.7})
    written["tasks"]["mood"]["lora_off"] = 0.6
    written["ablation_means"] = {"lora_off": 0.6}
    Results.check("", written).write(tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["tasks"]["mood"]["lora_off"] == 0.6
    assert "without" not in again["tasks"]["mood"]
    assert again["ablation_means"] == {"lora_off": 0.6}
    assert Results.read(tmp_path).tasks["mood"].without == {"lora": 0.6}


_EVALUATED = {"result": results_of({"mood": 0.7})["tasks"]["mood"], "seconds": 1.0}


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        (SessionState, {"progress": {"step": "far"}}, "progress.step"),
        (SessionState, {"log_offset": None}, "log_offset"),
        (TaskScored, {"result": {"metric": "accuracy"}}, "result.value: missing"),
        (DriverRecord, {"seconds": "many"}, "seconds"),
        (Latency, {"milliseconds": [1]}, "milliseconds"),
        (Latency, {"format": 7}, "written in format 7"),
        (Ending, {"status": "failed", "reason": ""}, "the reason of the failure is missing"),
        (Ending, {"status": "pruned", "step": None}, "step or value"),
    ],
)
def test_a_changed_field_is_refused_by_file_and_name(
    kind: type[FileRecord], spoil: dict[str, Any], words: str, tmp_path: Path
) -> None:
    whole: dict[type[FileRecord], Any] = {
        SessionState: _STATE.model_dump(mode="json"),
        TaskScored: _EVALUATED,
        DriverRecord: {"id": "a", "seconds": 1.0},
        Latency: {"format": 1, "rows": 1, "threads": 1, "milliseconds": {}},
        Ending: {"status": "failed", "reason": "no memory"},
    }
    path = tmp_path / "file.json"
    path.write_text(json.dumps(whole[kind]))
    kind.read(tmp_path, path.name)
    path.write_text(json.dumps(whole[kind] | spoil))
    with pytest.raises(RunError) as caught:
        kind.read(tmp_path, path.name)
    assert str(path) in caught.value.problem
    assert words in caught.value.problem
    assert caught.value.allowed
    assert caught.value.action


@pytest.mark.parametrize("text", ["", '{"id": "a"', "[1]", "[" * 100_000])
def test_a_file_that_was_cut_short_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / DriverRecord.FILE).write_text(text)
    with pytest.raises(RunError) as caught:
        DriverRecord.read(tmp_path)
    assert str(tmp_path / "driver.json") in caught.value.problem
    assert caught.value.allowed
    assert caught.value.action


def test_a_file_that_is_not_there_yet_is_none(tmp_path: Path) -> None:
    assert Plan.find(tmp_path) is None
    with pytest.raises(RunError, match=r"plan\.json: the file is missing"):
        Plan.read(tmp_path)


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    task = {"name": "mood", "type": "classification", "metric": "accuracy"}
    rows = {"train": 36, "development": 4, "reported": 10}
    identity: dict[str, Any] = {"tasks": {}, "model": {}}
    written = {"tasks": [task | rows], "identity": identity, "weather": "fine"}
    (tmp_path / "plan.json").write_text(json.dumps(written))
    assert Plan.read(tmp_path).tasks[0].cut == 0


def test_a_study_whose_best_trial_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = write_example_study(tmp_path) / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best": [999]}))
    with pytest.raises(RunError, match="best trials that are not listed: 999"):
        StudyRecord.read(tmp_path)
