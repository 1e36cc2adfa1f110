"""Random configs of contexts: what is drawn, and how their spread is judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from peml.comparison.settings import load_comparison
from peml.methods.registry import parse_method
from tests.benchmarks.conftest import Script

STUDY = Path(__file__).parents[2] / "benchmarks/studies/contexts_16.yaml"


def test_every_draw_is_a_valid_config_and_another(script: Script) -> None:
    drawn = script("context_draws").draw_different(40, seed=3)
    assert len({repr(parse_method(config)) for config in drawn.values()}) == 40
    assert drawn == script("context_draws").draw_different(40, seed=3)


def test_the_written_comparison_can_be_read(script: Script, tmp_path: Path) -> None:
    words = ["write", str(STUDY), str(tmp_path), "--draws", "5", "--seeds", "0", "7"]
    script("context_draws").main([*words, "--set", "tuning=null"])
    written = load_comparison(tmp_path / "study.yaml")
    assert len(written.methods) == 5
    assert written.seeds == (0, 7)
    assert yaml.safe_load((tmp_path / "study.yaml").read_text("utf-8"))["tuning"] is None


def test_seeds_that_shift_all_configs_alike_are_no_noise(script: Script) -> None:
    spread = script("context_draws").Spread({"a": (0.5, 0.6), "b": (0.7, 0.8), "c": (0.6, 0.701)})
    assert spread.seed_deviation < 0.001
    assert spread.config_deviation == pytest.approx(0.1, rel=0.01)
    assert spread.chance < 0.001
    assert spread.best_elsewhere == pytest.approx(0.1, rel=0.01)


def test_configs_that_change_places_with_the_seed_do_not_differ(script: Script) -> None:
    spread = script("context_draws").Spread({"a": (0.5, 0.7), "b": (0.7, 0.5), "c": (0.6, 0.6)})
    assert spread.config_deviation == 0
    assert spread.chance > 0.9
    assert spread.best_elsewhere == pytest.approx(-0.1)
