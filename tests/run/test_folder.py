"""The run folder: who may write to it, and what is refused without touching it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.errors import RunError
from peml.records.plan import Plan
from peml.records.run import Environment
from peml.run.folder import RunFolder
from tests.e2e.toy import toy_config


@pytest.fixture
def config(toys: Path) -> RunConfig:
    return load_config(toy_config(toys))


@pytest.fixture
def folder(config: RunConfig, tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create(config)
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_folder_holds_the_resolved_config_and_the_environment(
    folder: RunFolder, config: RunConfig
) -> None:
    assert folder.config().model_dump() == config.model_dump()
    environment = json.loads((folder.path / "environment.json").read_text())
    assert {"peml", "torch", "transformers", "peft"} <= set(environment["versions"])
    assert environment["device"]


def test_the_same_config_is_gone_on_with(folder: RunFolder, config: RunConfig) -> None:
    before = _content(folder.path)
    assert folder.holds(config)
    folder.create(config)
    assert _content(folder.path) == before


def test_a_folders_own_config_goes_on_there(folder: RunFolder, tmp_path: Path) -> None:
    own = folder.path / "config.yaml"
    assert RunFolder.default(own) == RunFolder.default(own, "named") == folder.path
    written = tmp_path / "config.yaml"  # as `peml init` writes one
    assert RunFolder.default(written) == Path("runs/config")
    assert RunFolder.default(written, "named") == Path("named")
    assert RunFolder.default(folder.path / "glue.yaml") == Path("runs/glue")


def test_going_on_with_other_packages_is_told(folder: RunFolder, config: RunConfig) -> None:
    folder.create(config)
    before = Environment.read(folder.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder.create(config)
    older = before.model_copy(update={"versions": before.versions | {"torch": "1.9"}})
    older.write(folder.path)
    with pytest.warns(UserWarning, match=r"begun with other packages.*torch was '1\.9' and is"):
        folder.create(config)
    (folder.path / "results.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder.create(config)  # finished: nothing more is computed


def test_a_run_that_could_write_no_report_is_refused_before_it_goes_on(
    folder: RunFolder, config: RunConfig
) -> None:
    (folder.path / "environment.json").unlink()
    with pytest.raises(RunError, match=r"environment\.json is missing"):
        folder.create(config)


def test_a_moved_run_is_still_the_same_run(folder: RunFolder, config: RunConfig) -> None:
    assert folder.holds(config.model_copy(update={"output": "elsewhere"}))


def test_another_config_is_refused_and_every_changed_field_named(
    folder: RunFolder, toys: Path
) -> None:
    other = load_config(toy_config(toys), ["seed=3", "method.lora.r=7"])
    before = _content(folder.path)
    with pytest.raises(RunError) as error:
        folder.holds(other)
    assert "method.lora.r was 4 and is 7" in error.value.problem
    assert "seed was 0 and is 3" in error.value.problem
    assert _content(folder.path) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, config: RunConfig, kind: str) -> None:
    place = tmp_path / "other"
    if kind == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
    before = _content(tmp_path)
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder(place).create(config)
    assert _content(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path, config: RunConfig) -> None:
    RunFolder(tmp_path).create(config)
    assert RunFolder(tmp_path).holds(config)


def test_what_a_kill_leaves_of_a_new_folder_is_taken_over(
    tmp_path: Path, config: RunConfig
) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / ".config.yaml.partial").write_text("mod")
    RunFolder(tmp_path).create(config)
    assert RunFolder(tmp_path).config().model_dump() == config.model_dump()


def test_whoever_comes_second_is_kept_out(folder: RunFolder) -> None:
    # A lock belongs to an open file, not to a process: a second opening is as good as another's.
    with folder.locked(), pytest.raises(RunError, match="another process"), folder.locked():
        pass
    with folder.locked():
        pass


def test_a_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.yaml"):
        RunFolder(tmp_path).config()


def test_data_that_changed_since_the_run_began_is_refused(folder: RunFolder) -> None:
    task = {"name": "mood", "type": "classification", "metric": "accuracy"}
    rows = {"train": 36, "development": 4, "reported": 10}
    plan = Plan.model_validate({
        "tasks": [task | rows],
        "identity": {"tasks": {}, "model": {}},
        "tokens_per_epoch": 400,
        "batches_per_epoch": 5,
        "steps": {"search": 2, "train": 8},
        "trainable_parameters": {"lora": 4, "architecture": 2},
    })  # fmt: skip
    folder.check_plan(plan)
    fewer = plan.model_copy(update={"trainable_parameters": {"lora": 4}})  # the supernet is gone
    folder.check_plan(fewer)
    changed = plan.model_copy(update={"tasks": [plan.tasks[0].model_copy(update={"train": 35})]})
    with pytest.raises(RunError, match=r"tasks\.mood\.train was 36 and is 35"):
        folder.check_plan(changed)
    assert Plan.read(folder.path) == plan.model_copy(
        update={"config": Plan.read(folder.path).config}
    )


def test_a_config_that_was_edited_in_the_folder_does_not_go_on_there(
    folder: RunFolder, toys: Path
) -> None:
    own = folder.path / "config.yaml"
    written = own.read_text()
    folder.check_plan(Plan.model_validate({"tasks": [], "identity": {"tasks": {}, "model": {}}}))
    own.write_bytes(f"# as it was\n{written}".replace("\n", "\r\n").encode())
    assert folder.holds(load_config(own))
    own.write_text(written.replace("project: peml", "project: other"))
    assert own.read_text() != written
    assert folder.holds(load_config(own))  # where numbers are shown changes none
    own.write_text(written.replace("export: true", "export: false"))
    assert folder.holds(load_config(own))  # the model may be saved later
    plan = Plan.read(folder.path)
    assert plan.config.pop("seed") == 0
    plan.model_copy(update={"config": plan.config | {"gone": 1}}).write(folder.path)
    assert folder.holds(load_config(own))  # as after an update of PEML
    plan.model_copy(update={"config": plan.config | {"seed": 0}}).write(folder.path)
    own.write_text(written.replace("seed: 0", "seed: 1"))
    with pytest.raises(RunError, match=r"another config: config\.yaml was edited: seed was 0"):
        folder.holds(load_config(own))
