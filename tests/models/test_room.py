"""The length limit: what the rows need, within what the model, a prompt and answers leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.config.loading import load_config
from peml.models import ModelSettings, check_prompt, load_family, make_room, settle
from peml.models.room import check_generation
from peml.run.preparation import prepare
from peml.testing.models import save_tiny_model
from tests.e2e.toy import toy_config
from tests.tasks.examples import generation, sentiment


def _settings(folder: Path, name: str, **config: Any) -> ModelSettings:
    return ModelSettings(name=str(save_tiny_model(name, folder / name, **config)))


@pytest.mark.parametrize(
    ("name", "most"), [("bert", 160), ("roberta", 159), ("gpt2", 256), ("llama", 256)]
)
def test_the_limit_is_what_the_model_was_made_for(name: str, most: int, tmp_path: Path) -> None:
    assert load_family(_settings(tmp_path, name)).max_length == most


def test_a_prompt_and_the_longest_answer_keep_their_positions(tmp_path: Path) -> None:
    family = load_family(_settings(tmp_path, "gpt2", n_positions=64))
    make_room(family, [generation(), sentiment()], 20, prompt_length=5)
    assert family.max_length == 64 - 20 - 5
    check_prompt(family, 5)
    check_generation(family, [generation()], 20, 5)
    encoder = load_family(_settings(tmp_path, "bert"))
    make_room(encoder, [sentiment()], 20, prompt_length=5)
    assert encoder.max_length == 155


def test_a_limit_that_is_set_stays(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "gpt2").model_copy(update={"max_length": 30})
    family = load_family(settings)
    make_room(family, [generation()], 240, prompt_length=5)
    settle(family, [12])
    assert family.max_length == 30


def test_a_run_takes_what_its_longest_row_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    config = load_config(toy_config(tmp_path, "causal", "lora", model={"max_length": None}))
    prepared = prepare(config)
    longest = max(int(split.lengths.max()) for split in prepared.train)
    assert 8 < longest <= prepared.family.max_length < 64
    plan = prepared.plan({})
    assert plan.max_length == prepared.family.max_length
    assert not any(task.cut for task in plan.tasks)


def test_rows_longer_than_the_model_are_counted_by_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    config = load_config(toy_config(tmp_path, "encoder", "lora", model={"max_length": 8}))
    for task in prepare(config).plan({}).tasks:
        assert task.cut == sum(
            (task.cut_train or 0, task.cut_development or 0, task.cut_reported or 0)
        )
    assert any(task.cut_train for task in prepare(config).plan({}).tasks)
