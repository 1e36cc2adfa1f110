"""`peml genotype`: show, diff, plot and check."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest

from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape
from peml.testing import save_tiny_model
from tests.cli.commands import peml
from tests.examples.runs import write_example_run

Capture = pytest.CaptureFixture[str]
_MADE = Genotype.fixed_mlp(PrefixShape(4, 2, 8), length=5, width=12)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.json"
    _MADE.save(path)
    return path


def test_show_reads_a_file_or_a_run(tmp_path: Path, made: Path, capsys: Capture) -> None:
    said = peml(capsys, "genotype", "show", made)
    assert said.code == 0, said
    for words in ("mlp-tanh", "4 of 4: 0, 1, 2, 3", "4 layers, 2 key/value heads", "fixed"):
        assert words in said.out
    run = write_example_run(tmp_path / "run", layers=6)
    said = peml(capsys, "genotype", "show", run)
    assert "gated-mlp -> conv -> mlp-tanh" in said.out
    assert "4 of 6: 0, 2, 3, 5" in said.out


def test_show_tells_how_clear_each_choice_was(tmp_path: Path, capsys: Capture) -> None:
    weights = {"cell.0": {"skip": 0.1, "mlp-tanh": 0.48, "conv": 0.42}}
    weights |= {"layer.1": {"on": 0.97, "off": 0.03}, "length": {"5": 0.2, "9": 0.8}}
    found_by = {"by": "search", "weights": weights, "guarded": ["length"], "fitted": ["length"]}
    path = tmp_path / "searched.json"
    _MADE.model_copy(update={"found_by": found_by}).save(path)
    shown = [line.split(None, 2) for line in peml(capsys, "genotype", "show", path).out.split("\n")]
    assert {line[1]: line[2].strip() for line in shown if line[:1] == ["weights:"]} == {
        "cell.0": "mlp-tanh 0.48, then conv 0.42: undecided",
        "layer.1": "on 0.97, then off 0.03",
        "length": "5 0.20, then 9 0.80: chosen to fit the budget",
    }


def test_a_folder_without_a_genotype_is_refused(tmp_path: Path, capsys: Capture) -> None:
    said = peml(capsys, "genotype", "show", tmp_path)
    assert said.code == 2
    assert "holds no genotype.json" in said.error


def test_diff_prints_what_differs_and_its_status_says_so(
    tmp_path: Path, made: Path, capsys: Capture
) -> None:
    assert peml(capsys, "genotype", "diff", made, made).code == 0
    other = tmp_path / "other.json"
    _MADE.model_copy(update={"length": 7}).save(other)
    said = peml(capsys, "genotype", "diff", made, other)
    assert said.code == 1
    assert "length" in said.out
    assert "7" in said.out
    assert "width" not in said.out


def test_plot_writes_png_and_svg(tmp_path: Path, made: Path, capsys: Capture) -> None:
    for name in ("network.png", "network.svg"):
        assert peml(capsys, "genotype", "plot", made, tmp_path / name).code == 0
    assert matplotlib.image.imread(tmp_path / "network.png").shape[1] > 1000
    assert "<svg" in (tmp_path / "network.svg").read_text(encoding="utf-8")
    said = peml(capsys, "genotype", "plot", made, tmp_path / "network.pdf")
    assert said.code == 2
    assert ".png or .svg" in said.error
    said = peml(capsys, "genotype", "plot", made, tmp_path / "nowhere" / "network.png")
    assert said.code == 2


def test_check_refuses_or_adapts(tmp_path: Path, made: Path, capsys: Capture) -> None:
    model = save_tiny_model("bert", tmp_path / "bert")
    assert peml(capsys, "genotype", "check", made).code == 0
    said = peml(capsys, "genotype", "check", made, "--model", model)
    assert said.code == 2
    assert "4 layer gates" in said.error
    assert "--adapt" in said.error
    out = tmp_path / "fitted.json"
    words = ("genotype", "check", made, "--model", model, "--adapt", "--output", out)
    said = peml(capsys, *words)
    assert said.code == 0, said
    assert "adapted: layers: 4 -> 2" in said.out
    assert peml(capsys, "genotype", "check", out, "--model", model).code == 0
    assert Genotype.load(out).found_by["adapted"]


def test_options_that_need_others_say_so(made: Path, capsys: Capture) -> None:
    said = peml(capsys, "genotype", "check", made, "--adapt")
    assert said.code == 2
    assert "--model" in said.error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2 is not readable"),
        ({"cells": ["conf"]}, "Did you mean 'conv'"),
    ],
)
def test_check_names_what_is_wrong_in_a_file(
    made: Path, capsys: Capture, change: dict[str, object], words: str
) -> None:
    made.write_text(json.dumps(_MADE.model_dump(mode="json") | change), encoding="utf-8")
    said = peml(capsys, "genotype", "check", made)
    assert said.code == 2
    assert words in said.error
