"""A comparison's later cells have the rows, tasks and base model of the earlier ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.comparison.pipeline import compare
from peml.comparison.settings import load_comparison
from peml.errors import RunError
from tests.comparison.quick import comparison_file
from tests.e2e.toy import METHODS

pytestmark = pytest.mark.usefixtures("quick_processes")


def _swap_first_rows(path: Path) -> None:
    one, other, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([other, one, *rest]))


@pytest.mark.e2e
def test_a_seed_that_is_added_is_not_run_on_changed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    methods = {"lora": METHODS["lora"]}
    toys, output = tmp_path / "toys", tmp_path / "comparison"
    one = load_comparison(comparison_file(toys, tmp_path / "one.yaml", methods, seeds=[0], jobs=1))
    two = one.model_copy(update={"seeds": (0, 1)})
    compare(one, output)
    rows = toys / "data" / "mood" / "train.jsonl"
    _swap_first_rows(rows)
    with pytest.raises(RunError, match="the rows of task mood's train split changed"):
        compare(two, output)
    assert [path.name for path in (output / "cells" / "toy").iterdir()] == ["lora-seed0"]
    assert load_comparison(output / "comparison.yaml").seeds == (0,)
    with pytest.raises(RunError, match="the rows of task mood's train split changed"):
        compare(one, output)  # nothing is left to run: its results are of other rows
    compare(one, output, report_only=True)
    _swap_first_rows(rows)
    assert not compare(two, output).unfinished
    config = output / "comparison.yaml"
    written = config.read_text()
    config.write_text(edited := written.replace("clip_by: model\n", "clip_by: group\n"))
    assert edited != written
    with pytest.raises(RunError, match=r"another comparison: comparison\.yaml was edited: run\.tr"):
        compare(load_comparison(config), output)  # cells of two kinds
    config.write_text(written)
    compare(load_comparison(config), output)
