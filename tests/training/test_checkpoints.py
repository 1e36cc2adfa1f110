"""Checkpoints: whole or refused, the newest kept, an old one never lost to a new one."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from peml import files
from peml.errors import CheckpointError, RunError
from peml.training.checkpoints import Checkpoint, CheckpointStore, load_random_state, random_state

FILES = ("trainable.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json")


def checkpoint(value: float) -> Checkpoint:
    return Checkpoint(
        trainable={"w": torch.full((40,), value)},
        optimizer={"w/exp_avg": torch.full((40,), value / 2), "w/step": torch.tensor(value)},
        extra=random_state(),
        state={"value": value, "best": None, "nested": {"a": [1, 2.5]}},
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def latest(store: CheckpointStore) -> Checkpoint:
    found = store.load_latest()
    assert found is not None
    return found


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_no_checkpoint_is_no_error(store: CheckpointStore) -> None:
    assert store.load_latest() is None


def test_everything_comes_back(store: CheckpointStore) -> None:
    saved = checkpoint(0.1)
    store.save(3, "train", saved)
    found = latest(store)
    assert found.state == saved.state
    for part in ("trainable", "optimizer", "extra"):
        wanted = getattr(saved, part)
        assert set(getattr(found, part)) == set(wanted)
        assert all(torch.equal(getattr(found, part)[key], wanted[key]) for key in wanted)


def test_the_newest_few_are_kept_and_steps_are_not_sorted_as_text(store: CheckpointStore) -> None:
    for step in (9, 10, 100):
        store.save(step, "train", checkpoint(step))
    assert names(store) == ["step-0000010-train", "step-0000100-train"]
    assert latest(store).state["value"] == 100


def test_what_a_kill_kept_from_being_removed_goes_when_the_run_goes_on(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        for step in (1, 2, 3):
            store.save(step, "train", checkpoint(step))
    assert len(names(store)) == 3
    assert latest(store).state["value"] == 3
    assert names(store) == ["step-0000002-train", "step-0000003-train"]


def test_training_after_the_search_at_the_same_step_is_the_newer(store: CheckpointStore) -> None:
    store.save(5, "search", checkpoint(1))
    store.save(5, "train", checkpoint(2))
    assert latest(store).state["value"] == 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_file_is_named_with_the_way_back(
    name: str, damage: str, store: CheckpointStore
) -> None:
    store.save(1, "train", checkpoint(1))
    store.save(2, "train", checkpoint(2))
    file = store.folder / "step-0000002-train" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            content[:-9] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        )
    with pytest.raises(CheckpointError) as caught:
        store.load_latest()
    assert str(file) in str(caught.value)
    assert f"delete {file.parent} to use the checkpoint before it" in str(caught.value)
    for part in file.parent.iterdir():
        part.unlink()
    file.parent.rmdir()
    assert latest(store).state["value"] == 1


def test_a_folder_without_manifest_is_not_trusted(store: CheckpointStore) -> None:
    store.save(1, "train", checkpoint(1))
    (store.folder / "step-0000001-train" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        store.load_latest()


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_old_checkpoint(
    name: str, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, "train", checkpoint(1))
    real = {"write_tensors": files.write_tensors, "write_json": files.write_json}

    def filling(function: str) -> Any:
        def write(path: Path, value: Any) -> None:
            if path.name == name:
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            real[function](path, value)

        return write

    for function in real:
        monkeypatch.setattr(f"peml.training.checkpoints.{function}", filling(function))
    with pytest.raises(RunError, match="the disk is full"):
        store.save(2, "train", checkpoint(2))
    assert names(store) == ["step-0000001-train"]
    assert latest(store).state["value"] == 1


def test_an_interrupted_write_leaves_the_old_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> NoReturn:
        raise KeyboardInterrupt

    store.save(1, "train", checkpoint(1))
    store.save(2, "train", checkpoint(2))
    monkeypatch.setattr("peml.training.checkpoints.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(3, "train", checkpoint(3))
    assert names(store) == ["step-0000001-train", "step-0000002-train"]
    assert latest(store).state["value"] == 2


def test_a_half_written_folder_of_a_killed_process_is_ignored(store: CheckpointStore) -> None:
    store.save(1, "train", checkpoint(1))
    half = store.folder / ".step-0000002-train.partial"
    half.mkdir()
    (half / "trainable.safetensors").write_bytes(b"half")
    assert latest(store).state["value"] == 1
    store.save(2, "train", checkpoint(2))
    assert latest(store).state["value"] == 2
    assert not half.exists()


def test_bests_go_only_when_told(store: CheckpointStore) -> None:
    for step in (4, 8):
        store.save_best(step, {"w": torch.full((2,), float(step))})
    assert store.load_best(4)["w"].tolist() == [4, 4]
    store.drop_bests_but(8)
    assert names(store) == ["best-0000008"]
    assert store.load_best(8)["w"].tolist() == [8, 8]
    with pytest.raises(CheckpointError, match="best-0000004"):
        store.load_best(4)


def test_another_runs_checkpoints_are_refused(tmp_path: Path) -> None:
    stores = {}
    for run in ("mine", "other"):
        plan = tmp_path / run / "plan.json"
        plan.parent.mkdir()
        plan.write_text(f'{{"steps": 3, "run": "{run}"}}')
        stores[run] = store = CheckpointStore(plan.parent / "checkpoints", 1, plan)
        store.save(3, "train", checkpoint(1))
        store.save_best(2, {"w": torch.ones(2)})
    (tmp_path / "mine" / "plan.json").write_text('{\r\n"run": "mine",\r\n"steps": 3}')
    assert latest(stores["mine"]).state["value"] == 1  # its own, however the plan is written
    shutil.rmtree(stores["mine"].folder)
    shutil.copytree(stores["other"].folder, stores["mine"].folder)
    for load in (stores["mine"].load_latest, lambda: stores["mine"].load_best(2)):
        with pytest.raises(CheckpointError, match=r"is of another run than .*plan\.json"):
            load()
    (tmp_path / "other" / "plan.json").unlink()
    with pytest.raises(CheckpointError, match="is of another run"):
        stores["other"].load_latest()  # nothing says what it was trained on


def test_random_numbers_go_on_where_they_were(store: CheckpointStore) -> None:
    store.save(1, "train", checkpoint(1))
    first = torch.rand(3)
    torch.manual_seed(99)
    load_random_state(latest(store).extra)
    assert torch.equal(torch.rand(3), first)
