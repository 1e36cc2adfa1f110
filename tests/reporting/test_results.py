from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from peml.reporting.run.results import load_run

Edit = Callable[[Path, Callable[[Any], None]], None]


def test_reads_what_the_run_wrote(searched: Path) -> None:
    run = load_run(searched)
    assert run.name == "searched"
    assert run.results.tasks["rte"].rows == 277
    assert run.genotype is not None
    assert run.genotype.cells == ("gated-mlp", "conv", "mlp-tanh")
    assert run.history.phases() == {"search": (1, 120), "train": (121, 420)}
    assert run.history.discretise is not None
    assert run.history.discretise.guarded == ["cell.1"]
    assert "name: peml" in run.config


def test_a_run_without_search_has_no_genotype(plain: Path) -> None:
    run = load_run(plain)
    assert run.genotype is None
    assert run.history.decisions == []
    assert run.history.discretise is None
    assert list(run.results.tasks["rte"].without) == ["lora"]


@pytest.mark.parametrize(
    "name", ["results.json", "plan.json", "metrics.jsonl", "environment.json", "config.yaml"]
)
def test_a_missing_file_is_named(searched: Path, name: str) -> None:
    (searched / name).unlink()
    with pytest.raises(RunError, match="missing") as caught:
        load_run(searched)
    assert str(searched / name) in caught.value.problem
    assert "peml fit" in caught.value.action


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        load_run(tmp_path / "nowhere")


def test_a_truncated_line_is_named(searched: Path) -> None:
    path = searched / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4][:30]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 5: not valid JSON"):
        load_run(searched)


def test_a_line_that_is_no_record_is_refused(searched: Path) -> None:
    with (searched / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("[1, 2]\n")
    with pytest.raises(RunError, match="not a record"):
        load_run(searched)


def test_all_wrong_fields_are_named_at_once(searched: Path, edit: Edit) -> None:
    def spoil(results: Any) -> None:
        results["tasks"]["rte"]["value"] = "high"
        del results["tasks"]["cola"]["rows"]

    edit(searched / "results.json", spoil)
    with pytest.raises(RunError) as caught:
        load_run(searched)
    assert "tasks.rte.value" in caught.value.problem
    assert "'high'" in caught.value.problem
    assert "tasks.cola.rows" in caught.value.problem


def test_another_format_is_refused(searched: Path, edit: Edit) -> None:
    edit(searched / "results.json", lambda results: results.update(format=7))
    with pytest.raises(RunError, match="format 7"):
        load_run(searched)


def test_null_and_nan_are_scores_that_are_not_finite(searched: Path, edit: Edit) -> None:
    def diverge(results: Any) -> None:
        results["tasks"]["rte"]["value"] = None
        results["tasks"]["cola"]["value"] = math.nan

    edit(searched / "results.json", diverge)
    tasks = load_run(searched).results.tasks
    assert math.isnan(tasks["rte"].value)
    assert math.isnan(tasks["cola"].value)


def test_unknown_keys_and_kinds_are_left_alone(searched: Path, edit: Edit) -> None:
    edit(searched / "plan.json", lambda plan: plan.update(later="field"))
    with (searched / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "later"}) + "\n")
    assert len(load_run(searched).history.steps) == 420
