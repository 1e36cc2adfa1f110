"""A method's section means the same in Python as in a file, in every config that holds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

import peml
from peml.comparison.settings import ComparisonConfig, parse_comparison
from peml.config.loading import parse_config
from peml.config.model import RunConfig
from peml.errors import ConfigError
from peml.methods.base import MethodSettings
from peml.methods.lora.settings import LoraMethodSettings
from peml.methods.registry import parse_method
from peml.tuning.settings import StudyConfig, parse_study

TASKS: dict[str, Any] = {"suite": "glue"}
STUDY: dict[str, Any] = {
    "name": "mine",
    "space": {"training.warmup": [0.0, 0.1]},
    "budget": {"trials": 2},
}
COMPARED: dict[str, Any] = {"suites": {"glue": TASKS}, "run": {"training": {"epochs": 2}}}


def _run(section: Any) -> MethodSettings:
    return peml.RunConfig(tasks=TASKS, method=section).method


def _study(section: Any) -> MethodSettings:
    run: Any = {"tasks": TASKS, "method": section}
    return StudyConfig(**STUDY, run=run).run.method


def _compared(section: Any) -> MethodSettings:
    return ComparisonConfig(**COMPARED, methods={"mine": section}).methods["mine"]


CONFIGS = pytest.mark.parametrize("held", [_run, _study, _compared])
Held = Callable[[Any], MethodSettings]


@CONFIGS
def test_a_section_is_the_methods_own_settings(held: Held) -> None:
    method: Any = held({"name": "lora", "lora": {"r": 4}})
    assert type(method) is LoraMethodSettings
    assert method.r == 4


PLAIN = pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lora", {"r": 4, "alpha": 2}),
        ("rslora", {"r": 4}),
        ("dora", {"target_modules": ("query",)}),
        ("adalora", {"init_r": 4, "target_r": 2}),
    ],
)


@PLAIN
def test_lora_alone_reads_its_settings_from_the_section_of_before(
    name: str, settings: dict[str, Any]
) -> None:
    nested = parse_method({"name": name, "lora": settings})
    assert nested == parse_method({"name": name, **settings})
    assert parse_method(nested.model_dump(mode="json")) == nested
    assert "lora" not in nested.model_dump()


@PLAIN
def test_a_setting_written_in_both_places_is_refused(name: str, settings: dict[str, Any]) -> None:
    one = next(iter(settings))
    with pytest.raises(ConfigError, match=rf"{one}: written twice.*remove lora\.{one}"):
        parse_method({"name": name, "lora": settings, one: settings[one]})
    other = parse_method({"name": name, "lora": settings, "dropout": 0.5})
    assert other == parse_method({"name": name, **settings, "dropout": 0.5})
    with pytest.raises(ConfigError, match="lora is 3, not a section"):
        parse_method({"name": name, "lora": 3})


def test_where_lora_is_half_of_a_method_it_has_its_own_section() -> None:
    for name in ("peml", "lora+prefix"):
        assert parse_method({"name": name, "lora": {"r": 4}}).model_dump()["lora"]["r"] == 4
        with pytest.raises(ConfigError, match="r: unknown key"):
            parse_method({"name": name, "r": 4})


@CONFIGS
@pytest.mark.parametrize("named", [{"name": "lora"}, MethodSettings(name="lora")])
def test_a_name_alone_stands_for_all_defaults(held: Held, named: Any) -> None:
    assert held(named) == LoraMethodSettings()


@CONFIGS
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "lorra"}, r"there is no method 'lorra'\. Did you mean 'lora'\?"),
        (MethodSettings(name="lorra"), r"there is no method 'lorra'"),
        ({"name": "lora", "lora": {"alpa": 4}}, r"unknown key\. Did you mean 'alpha'\?"),
        ({"name": "lora", "lora": {"r": 0}}, "greater than"),
        (7, "MethodSettings"),
    ],
)
def test_a_wrong_section_is_refused_at_once(held: Held, section: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        held(section)


def test_python_and_files_agree() -> None:
    method = {"name": "lora", "lora": {"r": 4}}
    raw = {"tasks": TASKS, "method": method, "training": None}
    made: Any = {"tasks": TASKS, "method": method}
    assert RunConfig(**made) == parse_config(raw)
    assert StudyConfig(**STUDY, run=made) == parse_study({**STUDY, "run": raw})
    compared = {**COMPARED, "methods": {"lora": None, "c-poly": {"shared": 2}}}
    assert ComparisonConfig(**compared) == parse_comparison(compared)
