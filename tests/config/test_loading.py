"""Config files: what is accepted, and every mistake named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.config.loading import apply_overrides, dump_config, load_config, parse_config
from peml.config.model import RunConfig
from peml.errors import ConfigError
from peml.methods.lora.settings import LoraMethodSettings
from peml.methods.registry import method_settings_types

MINIMAL: dict[str, Any] = {"tasks": {"suite": "glue"}}
EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
    if "tasks" in yaml.safe_load(path.read_text(encoding="utf-8"))  # others are tasks themselves
]


def parse(**sections: Any) -> RunConfig:
    return parse_config(MINIMAL | sections)


def problems(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(**sections)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"trainings": {}}, "trainings: unknown key. Did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key. Did you mean 'epochs'?"),
        (
            {"batches": {"mixing": {"temprature": 2}}},
            "batches.mixing.temprature: unknown key. Did you mean 'temperature'?",
        ),
        (
            {"method": {"name": "peml", "serch": {}}},
            "method.serch: unknown key. Did you mean 'search'?",
        ),
        ({"method": {"search": {}}}, "method is lora, which has no 'search': name the method"),
        (
            {"method": {"name": "peml", "lora": {"alpa": 4}}},
            "method.lora.alpa: unknown key. Did you mean 'alpha'?",
        ),
        (
            {"method": {"name": "lora", "alpa": 4}},
            "method.alpa: unknown key. Did you mean 'alpha'?",
        ),
        (
            {"method": {"name": "lora", "lora": {"rr": 4}}},
            "method.rr: unknown key. Did you mean 'r'?",
        ),
        (
            {"method": {"name": "lora+prefix", "loro": {}}},
            "method.loro: unknown key. Did you mean 'lora'?",
        ),
        ({"method": {"name": "lorra"}}, "there is no method 'lorra'. Did you mean 'lora'?"),
        ({"epochs": 3}, "epochs: unknown key. Did you mean 'training.epochs'?"),
        (
            {"model": {"name": "tiny", "seed": 3}},
            "model.seed: unknown key. Did you mean 'seed' at the top of the file, not in 'model'?",
        ),
        (
            {"training": {"per_device_train_batch_size": 8}},
            "per_device_train_batch_size: unknown key. Did you mean 'batches.rows'?",
        ),
        (
            {"method": {"name": "lora", "lr": 1e-4}},
            "method.lr: unknown key. Did you mean 'learning_rate'?",
        ),
    ],
)
def test_unknown_keys_get_the_nearest_valid_name(sections: dict[str, Any], expected: str) -> None:
    assert expected in problems(**sections)


def test_a_key_like_no_other_gets_the_list_of_its_own_section() -> None:
    message = problems(method={"name": "lora+prefix", "lora": {"zzz": 4}})
    assert "method.lora.zzz: unknown key." in message
    assert " Valid here: alpha, dropout, learning_rate, r, target_modules." in message
    message = problems(method={"name": "lora", "zzz": 4})
    assert "method.zzz: unknown key. Valid here: alpha, dropout, learning_rate, name, r," in message


def test_every_mistake_is_told_at_once() -> None:
    message = problems(
        modle={},
        training={"epochs": -1, "schedule": "linaer", "clip": "much"},
        method={"name": "peml", "lora": {"r": 0}, "search": {"share": 7}},
        seed=-3,
    )
    assert "7 problems" in message
    for field in (
        "modle",
        "training.epochs",
        "training.schedule",
        "training.clip",
        "method.lora.r",
        "method.search.share",
        "seed",
    ):
        assert f"  {field}:" in message
    assert "training.schedule: 'linaer' is not one of" in message
    assert "(got -1)" in message


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match="tasks: missing"):
        parse_config({})
    assert "tasks: give suite" in problems(tasks={})


@pytest.mark.parametrize("section", ["lora", 3, ["lora"]])
def test_a_value_where_a_section_belongs_is_named(section: Any) -> None:
    assert "method:" in problems(method=section)
    assert "training: should be a section" in problems(training=section)


def test_a_runs_folder_says_how_it_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a config file") as caught:
        load_config(tmp_path)
    assert caught.value.action == "give a file"
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert f"peml fit {tmp_path}/config.yaml" in caught.value.action


def test_values_of_another_kind_are_told_in_plain_words() -> None:
    message = problems(
        method="lora", export="maybe", seed=1.5, training={"epochs": "three"}, tasks={"files": "a"}
    )
    for line in (
        "method: should be a section, such as {name: lora} (got 'lora')",
        "export: should be true or false (got 'maybe')",
        "seed: should be a whole number (got 1.5)",
        "training.epochs: should be a number (got 'three')",
        "tasks.files: should be a list, [VALUE, ...] (got 'a')",
    ):
        assert f"  {line}" in message


def test_method_defaults_to_lora_also_where_only_its_options_are_given() -> None:
    assert parse().method.name == "lora"
    for section in ({"r": 3}, {"lora": {"r": 3}}):
        method: Any = parse(method=section).method
        assert (method.name, method.r) == ("lora", 3)


_OPTIONS = ("method.lora.r=5", "method.lora.target_modules=[query, value]")


@pytest.mark.parametrize("name", sorted(method_settings_types()))
def test_dumped_config_is_the_same_config_again(name: str) -> None:
    given = apply_overrides(
        MINIMAL,
        [
            f"method.name={name}",
            *(_OPTIONS if name == "lora" else ()),
            "training.learning_rates={lora: 1e-3}",
            "tasks.files=[a.yaml, b.yaml]",
            "output=runs/ü",
        ],
    )
    config = parse_config(given)
    again = parse_config(yaml.safe_load(dump_config(config)))
    assert again == config
    assert type(again.method) is type(config.method) is method_settings_types()[name]
    assert again.training.learning_rates == {"lora": 0.001}
    assert dump_config(again) == dump_config(config)


def test_overrides_are_read_as_yaml_and_applied_in_order() -> None:
    raw = apply_overrides(
        {"training": {"epochs": 1, "clip": 2}},
        [
            "training.epochs=3",
            "training.epochs=4.5",
            "tasks.include=[sst2, rte]",
            "model.name=a=b",
            "evaluation.ablations=false",
            "a.b.c.d=text",
            "model.revision=",
        ],
    )
    assert raw == {
        "training": {"epochs": 4.5, "clip": 2},
        "tasks": {"include": ["sst2", "rte"]},
        "model": {"name": "a=b", "revision": None},
        "evaluation": {"ablations": False},
        "a": {"b": {"c": {"d": "text"}}},
    }


def test_a_mapping_replaces_the_whole_section() -> None:
    raw = MINIMAL | {"method": {"name": "peml", "search": {"share": 0.3}, "lora": {"r": 2}}}
    config = parse_config(apply_overrides(raw, ["method={name: lora}"]))
    assert config.method == LoraMethodSettings()


def test_overriding_leaves_the_original_alone() -> None:
    raw: dict[str, Any] = {"training": {"epochs": 1}, "tasks": {"files": (Path("a"),)}}
    changed = apply_overrides(raw, ["training.epochs=2", "tasks.suite=demo"])
    assert raw == {"training": {"epochs": 1}, "tasks": {"files": (Path("a"),)}}
    assert changed["training"] == {"epochs": 2}


def test_an_empty_section_can_be_overridden() -> None:
    assert apply_overrides({"training": None}, ["training.epochs=2"]) == {"training": {"epochs": 2}}
    assert parse(training=None) == parse()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs", "is not an assignment"),
        ("=3", "is not an assignment"),
        ("training.epochs=[1", "is not YAML"),
        ("seed.deep=3", "'seed' is a value, not a section"),
    ],
)
def test_a_wrong_override_is_shown(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        apply_overrides(MINIMAL | {"seed": 1}, [override])
    assert override in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("tasks: [", "is not YAML"),
        ("- a\n- b\n", "holds list, not a mapping"),
        ("", "holds nothing"),
        ("tasks: {suite: glue}\nseed: 1\nseed: 2\n", "'seed' is given twice"),
        ("tasks: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("1: 2\ntasks: {suite: glue}\n", "1: Keys should be strings"),
    ],
)
def test_a_file_that_is_no_config_is_named(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config file .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("tasks: ü".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml can't be read"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    config = load_config(path, ["seed=3"])
    assert config.seed == 3
    assert parse_config(yaml.safe_load(dump_config(config))) == config
