"""Runs of a method with contexts, from the config to the saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.config import load_config
from peml.errors import ConfigError, DataError, RunError
from peml.export import export_model
from peml.run import fit
from peml.run.identity import check_identity, identify
from peml.run.preparation import prepare, with_config
from peml.serving import load
from peml.tasks import SOURCE_ROW
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e


def _section(**context: Any) -> str:
    settings = {"shots": 3, **context}
    inner = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"method={{name: lora+context, lora: {{r: 2}}, context: {{{inner}}}}}"


def test_a_run_holds_its_solved_rows_and_a_loaded_model_answers_with_them(
    toys: Path, tmp_path: Path
) -> None:
    config = load_config(toy_config(toys, "causal", "lora"), [_section()])
    run = fit(config, tmp_path / "run")
    assert run.results.needs_task_id
    assert run.results.export is not None  # the trained model and the one read back agree
    predictor = load(run.folder)
    mood = predictor.task("mood")
    assert mood.context
    assert len(mood.shots.examples) == 3
    assert {str(text).rpartition(" ")[2] for text in mood.shots.examples} == {"bad", "good"}
    assert "context" in run.results.tasks["mood"].without
    shown = "\n\n".join(map(str, mood.shots.examples))
    assert shown in (run.folder / "report.html").read_text()
    assert f"    {shown.splitlines()[0]}" in (run.folder / "report.md").read_text()
    with pytest.raises(RunError, match="can't keep the contexts"):
        export_model(run.folder, tmp_path / "out", "lora")


def test_rows_chosen_by_hand_are_shown_and_written_into_the_plan(
    toys: Path, tmp_path: Path
) -> None:
    path, file = toy_config(toys, "causal", "lora"), tmp_path / "rows.csv"
    names = [task.name for task in prepare(load_config(path)).tasks]
    choose = [_section(choose=file)]
    file.write_text("task,row\n" + "".join(f"{name},{n}\n" for n in (7, 2, 9) for name in names))
    prepared = prepare(load_config(path, choose))
    for task, planned, item in zip(
        prepared.tasks, prepared.plan({}).tasks, prepared.loaded.data, strict=True
    ):
        assert planned.context is not None
        assert planned.context.rows == [7, 2, 9]
        assert planned.context.text == "\n\n".join(map(str, task.shots.examples))
        assert planned.context.tokens > 0
        trained = {*item.train.column(SOURCE_ROW)[:], *item.development.column(SOURCE_ROW)[:]}
        assert trained == {*range(40)} - {7, 2, 9}
    before = identify(prepared)
    file.write_text(file.read_text().replace("mood,9", "mood,8"))
    with pytest.raises(RunError, match="task mood's definition changed: shots"):
        check_identity(before, identify(prepare(load_config(path, choose))), tmp_path)


def test_rows_that_are_shown_are_not_trained_on(toys: Path) -> None:
    path = toy_config(toys, "causal", "lora")
    plain = prepare(load_config(path))
    held = prepare(load_config(path, [_section()]))
    assert len(held.tasks[0].shots.examples) == 3
    for before, after in zip(plain.loaded.data, held.loaded.data, strict=True):
        whole = len(before.train) + len(before.development)
        assert len(after.train) + len(after.development) == whole - 3
        assert after.reported.checksum() == before.reported.checksum()


def test_shown_rows_count_as_train_rows(toys: Path) -> None:
    path = toy_config(toys, "causal", "lora")
    held = prepare(load_config(path, [_section(), "tasks.rows=8"]))
    assert [len(item.train) for item in held.loaded.data] == [5] * len(held.tasks)
    with pytest.raises(DataError, match="none is left to train on"):
        prepare(load_config(path, [_section(), "tasks.rows=3"]))


def test_a_comparison_prepares_a_method_with_contexts_anew(toys: Path) -> None:
    path = toy_config(toys, "causal", "lora")
    plain, held = load_config(path), load_config(path, [_section()])
    assert with_config(prepare(plain), held).tasks == prepare(held).tasks
    assert not with_config(prepare(held), plain).tasks[0].context


def test_shots_in_prompts_and_in_a_context_are_refused(toys: Path) -> None:
    path = toy_config(toys, "causal", "lora")
    with pytest.raises(ConfigError, match="solved rows in its prompts"):
        prepare(load_config(path, [_section(), "tasks.shots=2"]))
