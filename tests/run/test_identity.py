"""A run goes on with the rows, tasks and base model it was begun with, and with nothing else."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from peml.config.loading import load_config
from peml.data.rows import Rows
from peml.errors import RunError
from peml.models.source import ModelFiles
from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape
from peml.records.plan import Identity
from peml.run.identity import check_identity
from peml.run.listener import RunStopped
from peml.run.pipeline import fit
from peml.testing.models import save_tiny_model
from tests.e2e.toy import FAMILIES, toy_config


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], object]]:
    """The folder of a run's inputs, and what goes on with the run, stopped once."""
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "toys"
    training = {"epochs": 1, "evaluate_every": 2}
    config = load_config(toy_config(folder, "encoder", "lora", training=training))
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda *_: True)
    return folder, lambda: fit(config, tmp_path / "run")


def _replace_model(folder: Path) -> None:
    save_tiny_model(FAMILIES["encoder"], folder / FAMILIES["encoder"], seed=5)


def test_the_plan_names_what_the_run_was_begun_with(
    started: tuple[Path, Callable[[], object]], tmp_path: Path
) -> None:
    identity = json.loads((tmp_path / "run" / "plan.json").read_text())["identity"]
    assert identity["model"].keys() == {"weights", "config", "tokenizer", "end tokens"}
    for task in identity["tasks"].values():
        assert task["rows"].keys() == {"train", "development", "reported"}
        assert {"columns", "template", "metrics"} <= task["definition"].keys()


def test_a_changed_run_is_refused_with_everything_that_changed(
    started: tuple[Path, Callable[[], object]], tmp_path: Path
) -> None:
    folder, go_on = started
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    suite = yaml.safe_load((folder / "suite.yaml").read_text())
    task = next(each for each in suite["tasks"] if each.get("labels"))
    task["labels"].reverse()
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    _replace_model(folder)
    with pytest.raises(RunError) as caught:
        go_on()
    assert f"task {task['name']}'s definition changed: labels" in caught.value.problem
    assert "the base model's weights changed" in caught.value.problem
    assert {p: p.read_bytes() for p in before} == before


def test_reported_rows_that_changed_are_refused_though_every_count_is_the_same(
    started: tuple[Path, Callable[[], object]],
) -> None:
    folder, go_on = started
    path = sorted(folder.glob("data/*/validation.jsonl"))[0]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(RunError, match=f"rows of task {path.parent.name}'s reported split changed"):
        go_on()


def test_the_same_inputs_elsewhere_on_the_disk_are_the_same(
    started: tuple[Path, Callable[[], object]], tmp_path: Path
) -> None:
    folder, go_on = started
    shutil.rmtree(tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        go_on()
    _replace_model(folder)
    with pytest.raises(RunError, match="the base model's weights changed"):
        go_on()  # finished: its results are of the other model
    shutil.rmtree(folder / FAMILIES["encoder"])
    with pytest.warns(UserWarning, match="still those of its results can't be checked: .*model"):
        go_on()


def test_a_run_goes_on_with_the_network_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "genotype.json"
    shape = PrefixShape(layers=2, kv_heads=4, head_dim=8)
    network = Genotype.fixed_mlp(shape, length=2, width=8)
    network.save(file)
    method = {"name": "peml", "search": {"genotype": str(file)}}
    training = {"epochs": 1, "evaluate_every": 2}
    config = load_config(toy_config(tmp_path / "toys", "encoder", method, training=training))
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda *_: True)
    network.model_copy(update={"layers": (False, True)}).save(file)
    with pytest.raises(RunError, match=r"the file of method\.search\.genotype changed"):
        fit(config, tmp_path / "run")
    network.model_copy(update={"found_by": {"by": "hand"}}).save(file)
    fit(config, tmp_path / "run")
    network.model_copy(update={"layers": (False, True)}).save(file)
    with pytest.raises(RunError, match="genotype changed"):
        fit(config, tmp_path / "run")  # finished: its results are of the other network


_A = {"rows": {"train": "1", "reported": "2"}, "definition": {"labels": "3"}}
_MODEL = {"weights": "4", "tokenizer": "5"}


@pytest.mark.parametrize(
    ("tasks", "model", "said"),
    [
        ({"a": _A}, _MODEL, "task b is gone"),
        ({"a": _A, "b": _A, "c": _A}, _MODEL, "task c is new"),
        ({"b": _A, "a": _A}, _MODEL, "the order of the tasks changed"),
        ({"a": _A, "b": _A}, _MODEL | {"tokenizer": "6"}, "the base model's tokenizer changed"),
        (
            {"a": _A, "b": _A | {"definition": {"labels": "3", "shots": "7"}}},
            _MODEL,
            "task b's definition changed: shots",
        ),
        (
            {"a": _A, "b": _A | {"rows": {"train": "8", "reported": "9"}}},
            _MODEL,
            "the rows of task b's train and reported splits changed",
        ),
    ],
)
def test_what_changed_is_said_in_words(
    tmp_path: Path, tasks: dict[str, object], model: dict[str, str], said: str
) -> None:
    before = Identity.model_validate({"tasks": {"a": _A, "b": _A}, "model": _MODEL})
    now = Identity.model_validate({"tasks": tasks, "model": model})
    with pytest.raises(RunError, match=said):
        check_identity(before, now, tmp_path)
    check_identity(before, before, tmp_path)


def test_rows_have_the_checksum_of_what_they_say() -> None:
    rows = [{"text": f"row {n}", "label": n} for n in range(2500)]
    whole = Rows.from_list(rows)
    assert whole.checksum() == Rows.of_table(whole.table.slice(0), "another key").checksum()
    assert whole.checksum() == whole.select(range(2500)).checksum()
    assert whole.select([0, 1]).checksum() != whole.select([1, 0]).checksum()
    changed = [*rows[:2400], {"text": "row 2400", "label": 0}, *rows[2401:]]
    assert whole.checksum() != Rows.from_list(changed).checksum()


def test_all_files_that_an_index_names_are_weights(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = []
    for two in (b"2", b"3"):
        (tmp_path / "one.safetensors").write_bytes(b"1")
        (tmp_path / "two.safetensors").write_bytes(two)
        (tmp_path / "other.safetensors").write_bytes(two * 2)
        found.append(ModelFiles(str(tmp_path)).weights_checksum())
    assert found[0] != found[1]
    (tmp_path / "other.safetensors").unlink()
    assert ModelFiles(str(tmp_path)).weights_checksum() == found[1]
