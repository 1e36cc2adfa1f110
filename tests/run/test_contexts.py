"""Runs of a method with contexts, from the config to the saved model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from peml.config.loading import load_config
from peml.data.solved import SolvedRows
from peml.data.sources import load_task_data
from peml.errors import ConfigError, DataError, RunError
from peml.export import export_model
from peml.files import read_tensors
from peml.injection.inject import injection_of
from peml.prefix.genotype import Genotype
from peml.run.identity import check_identity, identify
from peml.run.pipeline import fit
from peml.run.preparation import prepare, with_config
from peml.serving import load
from peml.tasks import SOURCE_ROW, Shots
from tests.e2e.toy import METHODS, toy_config, write_rows

pytestmark = pytest.mark.e2e


def _section(**context: Any) -> str:
    settings = {"shots": 3, **context}
    inner = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"method={{name: lora+context, lora: {{r: 2}}, context: {{{inner}}}}}"


def test_a_run_holds_its_solved_rows_and_a_loaded_model_answers_with_them(
    distinct_toys: Path, tmp_path: Path
) -> None:
    config = load_config(toy_config(distinct_toys, "causal", "lora"), [_section()])
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
    distinct_toys: Path, tmp_path: Path
) -> None:
    path, file = toy_config(distinct_toys, "causal", "lora"), tmp_path / "rows.csv"
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


def test_a_search_on_contexts_leaves_a_network_as_long_as_the_longest(
    distinct_toys: Path, tmp_path: Path
) -> None:
    method = METHODS["peml"] | {"context": {"shots": 3}, "search": {"optimise": "bilevel"}}
    config = load_config(toy_config(distinct_toys, "causal", method))
    run = fit(config, tmp_path / "run")
    genotype = Genotype.load(run.folder / "genotype.json")
    contexts = read_tensors(run.folder / "model/contexts.safetensors")
    lengths = [tensor.shape[3] for tensor in contexts.values()]
    assert genotype.length == max(lengths) > min(lengths)
    assert run.results.needs_task_id
    assert {"lora", "context", "prefix"} <= run.results.tasks["mood"].without.keys()
    assert not (run.folder / "model/prefix.safetensors").exists()
    assert run.results.export is not None  # the trained model and the one read back agree
    seen = load(run.folder).base.backbone
    injection = injection_of(seen)
    assert injection is not None
    assert injection.contexts is not None
    assert {held.active for held in injection.contexts.by_task.values()} == {genotype.layers}


def test_rows_that_are_shown_are_not_trained_on(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    plain = prepare(load_config(path))
    held = prepare(load_config(path, [_section()]))
    assert len(held.tasks[0].shots.examples) == 3
    for before, after in zip(plain.loaded.data, held.loaded.data, strict=True):
        whole = len(before.train) + len(before.development)
        assert len(after.train) + len(after.development) == whole - 3
        assert after.reported.checksum() == before.reported.checksum()


def test_rows_that_are_shown_can_be_trained_on(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    before = prepare(load_config(path, [_section()]))
    after = prepare(load_config(path, [_section(leave_one_out="masked"), "tasks.rows=8"]))
    solved = SolvedRows(after.loaded.data, after.stream, 1)
    for number, (plain, item) in enumerate(zip(before.loaded.data, after.loaded.data, strict=True)):
        assert item.development.checksum() == plain.development.checksum()
        assert len(item.train) == 8
        sources = item.train.column(SOURCE_ROW)
        unseen = solved.unseen(number)
        shots = item.task.shots
        assert {sources[row] for row in unseen} == set(shots.rows)
        for row, places in unseen.items():
            assert shots.rows.index(sources[row]) in places
    other = after.tasks[0].model_copy(update={"shots": Shots(count=2, split="validation")})
    with pytest.raises(DataError, match="rows that are shown can't be trained on"):
        load_task_data(other, after.config.tasks, 0, trains_shown=True)


def test_labels_that_a_shown_row_sees_do_not_tell_its_own(distinct_toys: Path) -> None:
    section = _section(leave_one_out="masked", shots=7, choose="first")
    prepared = prepare(load_config(toy_config(distinct_toys, "causal", "lora"), [section]))
    solved = SolvedRows(prepared.loaded.data, prepared.stream, 1)
    labelled = 0
    for number, item in enumerate(prepared.loaded.data):
        unseen = solved.unseen(number)
        assert len(unseen) == 7
        if not item.task.type.has_labels:
            assert all(len(places) == 1 for places in unseen.values())
            continue
        labels = item.shown.column(item.task.columns.label)
        assert len(set(labels)) > 1
        seen = [
            Counter(label for place, label in enumerate(labels) if place not in places)
            for places in unseen.values()
        ]
        assert all(each == seen[0] for each in seen)
        labelled += 1
    assert labelled


def test_shown_rows_count_as_train_rows(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    held = prepare(load_config(path, [_section(), "tasks.rows=8"]))
    assert [len(item.train) for item in held.loaded.data] == [5] * len(held.tasks)
    with pytest.raises(DataError, match="none is left to train on"):
        prepare(load_config(path, [_section(), "tasks.rows=3"]))


def test_a_comparison_prepares_a_method_with_contexts_anew(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    plain, held = load_config(path), load_config(path, [_section()])
    assert with_config(prepare(plain), held).tasks == prepare(held).tasks
    assert not with_config(prepare(held), plain).tasks[0].context


def test_shots_in_prompts_and_in_a_context_are_refused(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    with pytest.raises(ConfigError, match="solved rows in its prompts"):
        prepare(load_config(path, [_section(), "tasks.shots=2"]))


def test_a_row_that_is_scored_may_not_be_shown(distinct_toys: Path, tmp_path: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    source = tmp_path / "data"
    shutil.copytree(distinct_toys / "data", source)
    config = [_section(), f"tasks.source={source}"]
    train = source / "mood/train.jsonl"
    shown = json.loads(train.read_text().splitlines()[0])
    for task, text in (("mood", "sentence"), ("rewrite", "text")):
        reported = source / task / "validation.jsonl"
        lines = reported.read_text().splitlines()
        row = json.loads(lines[4]) | {text: shown["sentence"].upper() + " !"}
        reported.write_text("\n".join([*lines[:4], json.dumps(row), *lines[5:]]))
        with pytest.raises(DataError) as caught:
            prepare(load_config(path, config))
        said = caught.value.problem
        assert "'mood': row 0 of its 'train' split, which its context shows" in said
        assert f"a reported row of '{task}': row 4 of {reported} (from 0)" in said
        reported.write_text("\n".join(lines))
    copied = {**shown, "label": 1 - shown["label"]}
    train.write_text(train.read_text() + 30 * (json.dumps(copied) + "\n"))
    with pytest.raises(DataError, match=rf"as a development row of 'mood': row \d+ of {train} "):
        prepare(load_config(path, config))
    prepare(load_config(path, config[1:]))  # without a context, it is leakage that is counted


def test_too_few_rows_or_labels_to_show_are_refused(distinct_toys: Path, tmp_path: Path) -> None:
    path = toy_config(distinct_toys, "causal", "lora")
    config = load_config(path, [_section(), "tasks.rows=4"])
    with pytest.raises(DataError, match="'mood': its context shows 3 rows, and 1 are left") as few:
        prepare(config)
    assert "at least 2 train rows beside those shown, one for each label" in few.value.allowed
    source = tmp_path / "data"
    shutil.copytree(distinct_toys / "data", source)
    for label in (0, 1):
        rows = [json.loads(line) for line in (source / "mood/train.jsonl").open()]
        write_rows(source / "mood/train.jsonl", [row | {"label": label} for row in rows])
        hidden = ("good", "bad")[label]
        with pytest.raises(DataError, match=f"'train' has no row of '{hidden}'"):
            prepare(load_config(path, [_section(), f"tasks.source={source}"]))
    for context in ({"choose": "first"}, {"shots": 1}):  # too few to show each
        prepare(load_config(path, [_section(**context), f"tasks.source={source}"]))


def test_encoders_have_no_prompts_to_make_bare(distinct_toys: Path) -> None:
    path = toy_config(distinct_toys, "encoder", "lora")
    with pytest.raises(ConfigError, match="'encoder' has no prompts"):
        prepare(load_config(path, ["tasks.bare=true"]))
