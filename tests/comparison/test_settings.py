"""A comparison's config: what follows from it, and every mistake told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison
from peml.config.loading import dump_config
from peml.data import select_tasks
from peml.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "compare.yaml"
MINIMAL: dict[str, Any] = {"run": {"tasks": {"suite": "glue"}}, "methods": {"lora": None}}


def parse(**sections: Any) -> ComparisonConfig:
    return parse_comparison(MINIMAL | sections)


def problems(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(**sections)
    return str(caught.value)


def test_a_method_is_named_by_its_label_unless_it_names_itself() -> None:
    config = parse(methods={"lora": None, "moe": {"name": "moe-lora", "routing": "token"}})
    assert {label: method.name for label, method in config.methods.items()} == {
        "lora": "lora",
        "moe": "moe-lora",
    }


def test_the_run_may_be_a_runs_file_and_methods_a_list(tmp_path: Path) -> None:
    of_one = {"method": {"name": "lora", "r": 3}, "seed": 5, "output": "x", "export": False}
    run = {"tasks": {"suite": "glue"}, "training": {"epochs": 2}, **of_one}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump({"run": "run.yaml", "methods": ["lora", "peml"]}))
    written = {"run": {"tasks": {"suite": "glue"}, "training": {"epochs": 7}}}
    wanted = parse(**written, methods={"lora": None, "peml": None})
    assert load_comparison(path, ["run.training.epochs=7"]) == wanted
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**run, "init_from": "runs/other"}))
    with pytest.raises(ConfigError, match=r"init_from: unknown key"):
        load_comparison(path)
    assert "lora is given twice" in problems(methods=["lora", "lora"])


def test_reference_and_focus_are_filled_in() -> None:
    assert parse().focus == "lora"
    assert parse(methods=["lora", "mtl-lora", "frozen"]).focus == "mtl-lora"
    assert parse(methods=["frozen"]).focus == "frozen"
    config = parse(methods={"c-poly": None, "peml": None, "lora": None}, match="parameters")
    assert (config.reference, config.focus) == ("c-poly", "peml")
    labels = {"reference": "lora", "focus": "c-poly"}
    config = parse(methods={"c-poly": None, "lora": None}, match="parameters", **labels)
    assert (config.reference, config.focus) == ("lora", "c-poly")


def test_without_suites_there_is_one_named_after_its_suite() -> None:
    assert list(parse().suites) == ["glue"]


def test_suites_change_the_tasks_of_the_run() -> None:
    config = parse(
        run={"tasks": {"suite": "glue", "rows": 50}},
        suites={"glue": None, "demo": {"exclude": ["clock"]}, "few": {"suite": "glue", "rows": 5}},
    )
    assert [(s.suite, s.rows) for s in config.suites.values()] == [
        ("glue", 50),
        ("demo", 50),
        ("glue", 5),
    ]
    assert config.suites["demo"].exclude == ("clock",)


@pytest.mark.parametrize("raw", [MINIMAL, yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))])
def test_a_dumped_config_is_the_same_config_again(raw: dict[str, Any]) -> None:
    config = parse_comparison({**raw, "tuning": None, "match": "parameters"})
    again = parse_comparison(yaml.safe_load(dump_config(config)))
    assert again == config
    assert again.tuning is None


def test_the_example_takes_overrides() -> None:
    config = load_comparison(
        EXAMPLE, ["run.training.epochs=1", "methods.lora.lora.r=3", "run.tasks.rows=7"]
    )
    method: Any = config.methods["lora"]
    assert (config.run.training.epochs, method.r) == (1, 3)
    assert config.suites["glue"].rows == 7


def test_a_cell_is_the_shared_config_with_its_own_tasks_method_and_seed() -> None:
    config = parse(run={"tasks": {"suite": "glue"}, "training": {"epochs": 7}})
    cell = config.run_config("glue", config.methods["lora"], 5)
    assert (cell.training.epochs, cell.tasks.suite, cell.method.name, cell.seed) == (
        7,
        "glue",
        "lora",
        5,
    )


def test_every_mistake_is_told_at_once_where_it_was_written() -> None:
    message = problems(
        run={"trainin": {}, "training": {"epochz": 1}, "tasks": {"rowz": 1}, "seed": 3},
        suites={"glue": None, "demo": {"excludee": []}},
        methods={"lora": {"lora": {"rr": 1}}, "x": {"name": "lorra"}, "a/b": {"name": "lora"}},
        seeds=[1, 1],
        tuning={"factors": [1, 1]},
        matc="none",
    )
    assert "11 problems" in message
    for line in (
        "run.trainin: unknown key. Did you mean 'training'?",
        "run.training.epochz: unknown key. Did you mean 'epochs'?",
        "run.tasks.rowz: unknown key. Did you mean 'rows'?",
        "run.seed: unknown key.",
        "suites.demo.excludee: unknown key. Did you mean 'exclude'?",
        "methods.lora.rr: unknown key. Did you mean 'r'?",
        "methods.x.name: there is no method 'lorra'. Did you mean 'lora'?",
        "methods.a/b: 'a/b' names a folder",
        "seeds: 1 is given twice",
        "tuning.factors: 1.0 is given twice",
        "matc: unknown key. Did you mean 'match'?",
    ):
        assert f"  {line}" in message


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"run": {}}, "run.tasks: missing"),
        ({"run": {"tasks": {}}}, "run.tasks: give suite"),
        ({"methods": {}}, "methods: should not be empty"),
        ({"methods": None}, "methods: missing"),
        ({"focus": "lorra"}, "focus: there is no method of this label. Did you mean 'lora'?"),
        ({"reference": "peml"}, "reference: there is no method of this label. Valid: lora."),
        (
            {"suites": {"a": {"suite": "glue"}, "b": {"suite": "glue"}}},
            "suites: 'b' has the same tasks as 'a': duplicate cells",
        ),
        (
            {"run": MINIMAL["run"] | {"training": {"learning_rate_factor": 2}}},
            "tuning: the grid chooses run.training.learning_rate_factor, which is 2",
        ),
        (
            {"run": MINIMAL["run"] | {"evaluation": {"split": "development"}}},
            "run.evaluation: split has to stay `reported`",
        ),
        ({"suites": {"glue": 3}}, "suites.glue: should be a section, {KEY: VALUE} (got 3)"),
        ({"methods": {"lora": 3}}, "methods.lora: should be a section"),
        ({"run": 3}, "run: should be a section"),
        ({"budget": 0}, "budget: Input should be greater than 0 (got 0)"),
        ({"budget": 1000}, "budget: no method is matched"),
        ({"reference": "lora"}, "reference: no method is matched"),
        ({"unmatched": ["lora"]}, "unmatched: no method is matched"),
    ],
)
def test_a_mistake_is_named(sections: dict[str, Any], expected: str) -> None:
    assert expected in problems(**sections)


def test_the_language_models_demo_is_of_three_types_and_shows_zero_shot_beside() -> None:
    config = load_comparison(EXAMPLES / "demo-lm.yaml")
    kinds = {task.type.value for task in select_tasks(config.suites["demo"])}
    assert kinds == {"classification", "multiple-choice", "generation"}
    assert [method.name for method in config.methods.values()] == ["frozen", "peml"]
