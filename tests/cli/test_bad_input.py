"""A user's mistake ends with one message that names it, exit code 2, and nothing damaged."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.errors import PemlError
from tests.cli.commands import content, peml
from tests.e2e.toy import Row, toy_config, write_rows, write_suite

Capture = pytest.CaptureFixture[str]


def _refused(capsys: Capture, config: Path, output: Path, *words: str) -> str:
    """The message of a refused run, which must leave the output folder as it was."""
    before = content(output) if output.exists() else None
    said = peml(capsys, "fit", config, "--output", output, *words)
    assert said.code == 2, said
    assert said.error.startswith("error: ")
    assert "Next: " in said.error
    assert "Traceback" not in said.error
    assert (content(output) if output.exists() else None) == before
    return said.error


def _change_row(folder: Path, task: str, row: int, **values: Any) -> None:
    path = folder / "data" / task / "train.jsonl"
    rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()]
    rows[row] |= values
    write_rows(path, [{k: v for k, v in r.items() if v is not None} for r in rows])


def _change_task(folder: Path, number: int, **values: Any) -> None:
    suite = yaml.safe_load((folder / "suite.yaml").read_text())
    suite["tasks"][number] |= values
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))


def _empty(folder: Path) -> None:
    (folder / "data" / "same" / "validation.jsonl").write_text("")


def _remove_file(folder: Path) -> None:
    (folder / "data" / "mood" / "train.jsonl").unlink()


def _divide_by_zero(folder: Path) -> None:
    _change_row(folder, "mood", 2, sentence="z")
    _change_task(folder, 0, template="{{ 1 / (sentence | length - 1) }}")


_BAD_DATA: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing file": (_remove_file, ("mood", "no file for the split train")),
    "missing column": (
        lambda f: _change_row(f, "mood", 3, sentence=None, sentense="x"),
        ("train.jsonl, line 4", "'sentence'", "Did you mean 'sentense'?"),
    ),
    "label outside the list": (
        lambda f: _change_row(f, "mood", 5, label=7),
        ("train.jsonl, line 6", "field 'label'", "7 is not a label"),
    ),
    "empty split": (_empty, ("validation.jsonl", "no rows")),
    "template of unknown words": (
        lambda f: _change_task(f, 0, template="{{ sentence }} {{ x }}"),
        ("'mood'", "unknown variable 'x'"),
    ),
    "template that fails on a row": (
        _divide_by_zero,
        ("'mood', row 2", "'template'", "division by zero"),
    ),
    "unknown metric": (
        lambda f: _change_task(f, 0, metrics=["accurracy"]),
        ("mood", "'accurracy'", "Did you mean 'accuracy'?"),
    ),
    "text too long": (
        lambda f: _change_row(f, "mood", 1, sentence="the dog " * 80),
        ("'mood', row 1", "longer than the limit", "model.max_length"),
    ),
}


@pytest.mark.parametrize("name", _BAD_DATA)
def test_bad_data_is_refused_by_file_row_and_field(
    toys: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    damage, words = _BAD_DATA[name]
    suite = write_suite(tmp_path)
    config = toy_config(
        toys, method="lora", tasks={"suite": str(suite)}, model={"too_long": "refuse"}
    )
    damage(tmp_path)
    message = _refused(capsys, config, tmp_path / "run")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.name=lorra", ("no method 'lorra'", "Did you mean 'lora'?")),
        ("training.epoch=3", ("training.epoch", "Did you mean 'epochs'?")),
        ("training.epochs=-1", ("training.epochs", "greater than 0", "got -1")),
        ("tasks.exclude=[moood]", ("no task 'moood'", "Did you mean 'mood'?")),
        ("tasks.suite=nothing.yaml", ("nothing.yaml",)),
        ("model.name=/nowhere/bert", ("/nowhere/bert", "can't be loaded")),
        ("method.search.genotype=/nowhere.json", ("/nowhere.json",)),
        ("training.epochs=0.01", ("at least one training step",)),
        ("model.max_length=4000", ("4000", "160 positions")),
    ],
)
def test_a_bad_setting_is_refused_by_name(
    toys: Path, tmp_path: Path, capsys: Capture, override: str, words: tuple[str, ...]
) -> None:
    message = _refused(capsys, toy_config(toys), tmp_path / "run", "--set", override)
    for word in words:
        assert word in message


def test_a_missing_config_file_is_named(tmp_path: Path, capsys: Capture) -> None:
    said = peml(capsys, "fit", tmp_path / "nothing.yaml")
    assert said.code == 2
    assert "nothing.yaml" in said.error
    assert "Traceback" not in said.error


def test_debug_shows_the_traceback(toys: Path, tmp_path: Path) -> None:
    from peml.cli import main

    with pytest.raises(PemlError):
        main(["--debug", "fit", str(tmp_path / "nothing.yaml")])


@pytest.mark.parametrize(("family", "model"), [("encoder", "deberta-v2"), ("causal", "bloom")])
def test_a_model_without_the_interface_takes_lora_but_no_prefix(
    toys: Path, tmp_path: Path, capsys: Capture, family: str, model: str
) -> None:
    message = _refused(capsys, toy_config(toys, family, tiny=model), tmp_path / "run")
    assert "take a prefix" in message
    config = toy_config(toys, family, "lora", tiny=model)
    assert peml(capsys, "fit", config, "--dry-run").code == 0
    config = toy_config(toys, family, "lora", tiny=model, model={"attention": "sdpa"})
    message = _refused(capsys, config, tmp_path / "run")
    assert "set model.attention: auto" in message


def test_a_task_the_family_cannot_do_is_refused_before_anything_loads(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr("peml.run.preparation.load_all", load)
    message = _refused(capsys, toy_config(toys), tmp_path / "run", "--set", "tasks.exclude=[]")
    assert "rewrite (generation)" in message
    assert "tasks.exclude: [rewrite]" in message


@pytest.mark.parametrize("rate", ["1.0e+6", "1.0e+30"])
def test_a_loss_that_explodes_ends_the_run_and_names_the_tasks(
    toys: Path, tmp_path: Path, capsys: Capture, rate: str
) -> None:
    config = toy_config(toys, method="lora")
    words = ("--set", f"training.learning_rates={{lora: {rate}, heads: {rate}}}")
    said = peml(capsys, "fit", config, "--output", tmp_path / "run", *words)
    assert said.code == 2
    assert "training diverged at step" in said.error
    assert "closeness" in said.error
    assert "lower training.learning_rates" in said.error
    assert "Traceback" not in said.error


@pytest.fixture
def stopped(toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that stopped on a full disk while it wrote its third checkpoint."""
    real = os.fsync
    synced = []

    def fsync(file: int) -> None:
        name = str(Path(f"/proc/self/fd/{file}").readlink())
        if "step-0000015" in name:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(name)
        real(file)

    config = toy_config(toys, method="lora", training={"checkpoint_every": 5})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        said = peml(capsys, "fit", config, "--output", tmp_path / "run")
    assert said.code == 2
    assert "step-0000015" in said.error
    assert "the disk is full" in said.error
    assert "Traceback" not in said.error
    assert [p.name[:12] for p in sorted((tmp_path / "run/checkpoints").glob("step-*"))] == [
        "step-0000005",
        "step-0000010",
    ]
    return config


def test_after_a_full_disk_the_same_command_goes_on(
    stopped: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert peml(capsys, "fit", stopped, "--output", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("name", ["trainable.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name(
    stopped: Path, tmp_path: Path, capsys: Capture, name: str, damage: str
) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-0000010-train" / name
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(raw) // 2
        path.write_bytes(raw[:middle] + (b"" if damage == "cut" else b"#" + raw[middle + 1 :]))
    message = _refused(capsys, stopped, tmp_path / "run")
    assert str(path) in message or damage == "altered"  # an altered manifest names what it accuses
    assert "step-0000010-train" in message


def test_a_warning_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert peml(capsys, "tasks", "list").code == 0
    shown = warnings.formatwarning("a file is made again", UserWarning, "mapped.py", 90)
    assert shown == "warning: a file is made again\n"
