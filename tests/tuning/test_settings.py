"""A study's config: every mistake is told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.errors import ConfigError
from peml.tuning.settings import load_study, parse_study
from tests.tuning.studies import MADE_UP, RATE, made_up


def _problem(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made_up(**sections)
    return str(caught.value)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"training.epoch": [1, 2]}, "no such path. Did you mean 'training.epochs'?"),
        ({"trainin.epochs": [1, 2]}, "no such path. Did you mean 'training.epochs'?"),
        ({"method.prefix.width": [8, 16]}, "space.method.prefix.width: the run config has no such"),
        (
            {"training.epochs.more": [1, 2]},
            "space.training.epochs.more: the run config has no such",
        ),
        ({RATE: {"low": 1e-2, "high": 1e-4}}, "reversed: low (0.01) is above high (0.0001)"),
        ({RATE: {"low": "1e-2", "high": "1e-4"}}, "reversed: low (0.01) is above high (0.0001)"),
        ({RATE: {"low": 3, "high": 3}}, "the range is empty: low and high are both 3"),
        ({RATE: {"low": 0, "high": 1, "log": True}}, "has to lie above zero, and low is 0"),
        ({RATE: {"low": -1.0, "high": 1.0, "log": True}}, "above zero, and low is -1.0"),
        ({RATE: {"low": 0.1}}, "low and high"),
        ({RATE: {"low": 0.1, "high": float("nan")}}, "have to be numbers"),
        ({RATE: {"low": 1, "high": 10, "step": 4}}, "step 4 does not lead from low (1) to high"),
        ({RATE: {"low": 1, "high": 10, "step": 0.5}}, "whole numbers, and step is 0.5"),
        ({RATE: {"low": 1, "high": 8, "step": 7, "log": True}}, "can't have a step"),
        ({RATE: []}, "two or more values"),
        ({RATE: [0.1]}, "two or more values"),
        ({RATE: [0.1, 0.2, 0.1]}, "0.1 is given twice"),
        ({RATE: {"low": 0.1, "hihg": 1.0}}, "hihg: unknown key. Did you mean 'high'?"),
        ({RATE: {"low": "small", "high": 1.0}}, f"space.{RATE}.low"),
        ({"method.lora.r": {"low": 2.0, "high": 8.5}}, "method.r: "),
        ({"method.lora.r": {"low": 2, "high": 8.0}}, "method.r: "),
        ({"training.epochs": ["many", "few"]}, "training.epochs: "),
        ({"training.warmup": {"low": 0.0, "high": 1.5}}, "training.warmup: "),
        ({"training.schedule": ["linear", "square"]}, "training.schedule: "),
        (
            {"method": [{"name": "lora"}, {"name": "dora"}], "method.lora.r": [4, 8]},
            "space.method.lora.r lies within space.method",
        ),
        ({"method.r": [4, 8], "method.lora.r": [4, 8]}, "space.method.lora.r lies within"),
        ({"method.lora": [{"r": 4}, {"r": 8}]}, "space.method.lora: the run config has no such"),
        ({"seed": [0, 1]}, "space.seed: all trials share it"),
        ({"tasks.rows": [10, 20]}, "space.tasks.rows: all trials share it"),
        ({"evaluation.split": ["reported", "development"]}, "all trials share it"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space: dict[str, Any], words: str) -> None:
    assert words in _problem(space=space)


def test_all_problems_of_a_space_are_told_at_once() -> None:
    said = _problem(space={"training.warmup": [0.1, 1.5], "training.clip": [1.0, -1.0]})
    assert "training.warmup" in said
    assert "training.clip" in said
    assert "training.epochz" in _problem(space={"training.epochz": [1, 2], "clip": [1, 2]})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"budget": {}}, "budget: give trials, hours or tokens"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"objectives": ["parameters"]}, "mean comes first"),
        ({"objectives": ["mean", "mean"]}, "mean comes first"),
        ({"objectives": ["mean", "speed"]}, "objectives[1]: 'speed' is not one of mean"),
        (
            {"objectives": ["mean", "parameters"], "pruner": {"name": "hyperband"}},
            "two objectives can't be compared while they run",
        ),
        ({"sampler": {"name": "grid"}}, f"a grid needs a list or a step for {RATE}"),
        ({"sampler": {"name": "tpee"}}, "sampler.name"),
        ({"samplr": {}}, "samplr: unknown key. Did you mean 'sampler'?"),
        ({"run": None}, "run: missing"),
        ({"run": {"tasks": {"suite": "demo"}, "training": {"epoch": 1}}}, "training.epoch"),
        ({"space": {}}, "space"),
    ],
)
def test_other_mistakes_are_named(sections: dict[str, Any], words: str) -> None:
    assert words in _problem(**sections)


def test_the_run_may_be_a_file_and_is_overridden_like_a_section(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(MADE_UP["run"]))
    study = {key: value for key, value in MADE_UP.items() if key != "name"} | {"run": "base.yaml"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(study))
    config = load_study(path, ["run.training.epochs=7", "budget.trials=2"])
    assert config.name == "mine"
    assert config.run.training.epochs == 7
    assert config.budget.trials == 2
    assert config.definition()["space"] == made_up().definition()["space"]


def test_trials_are_scored_on_the_development_split_and_nothing_else_is_made() -> None:
    config = made_up().trial_config({RATE: 0.5, "method.lora.r": 3})
    assert config.training.learning_rates == {"lora": 0.5}
    assert config.method.model_dump()["r"] == 3
    assert config.evaluation.split == "development"
    assert not config.evaluation.ablations
    assert not config.export


def test_one_path_serves_lora_alone_and_lora_as_half_of_a_method() -> None:
    values = {"method.lora.r": 5, "method.lora.dropout": 0.25}
    for name in ("lora", "adalora", "peml"):
        run = {"tasks": {"suite": "demo"}, "method": {"name": name}}
        space = {"method.lora.dropout": [0.0, 0.25]}
        method: Any = (
            made_up(run=run, space=space).trial_config({"method.lora.dropout": 0.25}).method
        )
        assert getattr(method, "lora", method).dropout == 0.25
    flat: Any = made_up().trial_config(values).method
    assert (flat.r, flat.dropout) == (5, 0.25)


def test_values_that_do_not_go_together_are_refused_as_a_trial() -> None:
    method = {"name": "peml"}
    ends = {"low": 0.1, "high": 0.6}
    space = {"method.search.warmup": ends, "method.search.cooldown": ends}
    config = made_up(run={"tasks": {"suite": "demo"}, "method": method}, space=space)
    config.trial_config({"method.search.warmup": 0.3, "method.search.cooldown": 0.3})
    with pytest.raises(ConfigError, match=r"method\.search\.warmup=0\.6"):
        config.trial_config({"method.search.warmup": 0.6, "method.search.cooldown": 0.6})


def test_whole_sections_and_lists_can_be_choices() -> None:
    methods = [{"name": "lora"}, {"name": "lora+prefix", "length": 4}]
    config = made_up(space={"method": methods})
    assert config.trial_config({"method": methods[1]}).method.name == "lora+prefix"
    parameter = config.space["method"]
    stored = parameter.grid()
    assert stored is not None
    assert [parameter.decode(value) for value in stored] == methods
    assert all(isinstance(value, str) for value in stored)


def test_the_grid_ends_the_study() -> None:
    space = {"training.epochs": [1, 2, 3], "method.lora.r": {"low": 2, "high": 8, "step": 2}}
    config = parse_study(
        {key: value for key, value in MADE_UP.items() if key != "budget"}
        | {"space": space, "sampler": {"name": "grid"}}
    )
    assert config.most_trials == 12


def test_a_grid_of_fractions_ends_at_the_range_s_end() -> None:
    space = {"training.warmup": {"low": 0.1, "high": 0.3, "step": 0.1}}
    grid = made_up(space=space, sampler={"name": "grid"}).space["training.warmup"].grid()
    assert grid == [0.1, 0.2, 0.3]


def test_the_example_is_valid() -> None:
    config = load_study(Path(__file__).parents[2] / "examples" / "tune-demo.yaml")
    assert config.run.method.name == "peml"
    assert config.most_trials == 16
