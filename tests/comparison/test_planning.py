"""Trying every method on one base model: none may see what another left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml import RunConfig
from peml.comparison import planning
from peml.comparison.planning import plan_comparison
from peml.comparison.settings import parse_comparison
from peml.methods.attached import AttachedModel
from peml.methods.targets import find_linears
from peml.run import preparation
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from tests.comparison.quick import ADAPTER, comparison_file
from tests.e2e.toy import METHODS


def test_methods_are_tried_apart_on_the_same_frozen_weights(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"full": {}, "lora": METHODS["lora"], "mtl-lora": ADAPTER, "peml": METHODS["peml"]}
    raw = yaml.safe_load(comparison_file(toys, toys / "apart.yaml", methods).read_text())
    tried: list[AttachedModel] = []

    def attach_and_keep(*given: Any) -> AttachedModel:
        tried.append(attach(*given))
        return tried[-1]

    monkeypatch.setattr(planning, "attach", attach_and_keep)
    matching = plan_comparison(parse_comparison(raw))
    assert list(matching.suites["toy"]) == list(methods)
    trained = [{group.name for group in model.groups()} for model in tried]
    assert trained[1] == {"lora", "heads"}
    assert trained[3] == {"lora", "prefix", "architecture", "heads"}
    layers = [find_linears(model.base.backbone) for model in tried]
    assert any(".lora_A." in name for name in layers[1])
    assert not any(".lora_A." in name for other in (layers[0], layers[2]) for name in other)
    weights = [model.base.backbone.get_input_embeddings().weight for model in tried]
    assert len({weight.data_ptr() for weight in weights}) == 1


def test_what_the_report_says_of_the_tasks_is_known_before_training(toys: Path) -> None:
    raw = yaml.safe_load(comparison_file(toys, toys / "known.yaml").read_text())
    matching = plan_comparison(parse_comparison(raw))
    mood = matching.tasks["toy"][0]
    assert (mood.name, mood.metric, mood.train, mood.rows) == (
        "mood",
        "accuracy",
        36,
        10,
    )
    assert mood.majority == 0.5
    assert matching.steps == {"toy": 18}


def test_a_trained_context_is_sized_by_its_own_tokens(
    distinct_toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"name": "lora+context", "lora": {"r": 2}, "correction": {"trains": "values"}}
    methods = {
        "lora": METHODS["lora"],
        **{f"of-{shots}": {**held, "context": {"shots": shots}} for shots in (2, 3)},
    }
    raw = yaml.safe_load(
        comparison_file(distinct_toys, distinct_toys / "sized.yaml", methods).read_text()
    )
    tried: list[AttachedModel] = []

    def attach_and_keep(*given: Any) -> AttachedModel:
        tried.append(attach(*given))
        return tried[-1]

    prepared: list[RunConfig] = []

    def prepare_and_count(config: RunConfig) -> Prepared:
        prepared.append(config)
        return prepare(config)

    monkeypatch.setattr(planning, "attach", attach_and_keep)
    monkeypatch.setattr(preparation, "prepare", prepare_and_count)
    config = parse_comparison(raw | {"match": "none"})
    sized = plan_comparison(config).suites["toy"]
    assert len(config.seeds) > 1
    assert len(prepared) == 4  # to size and to try each context, once for all seeds
    for label, model in zip(methods, tried, strict=True):
        groups = (group for group in model.groups() if group.name != "heads")
        trained = sum(p.numel() for group in groups for p in group.parameters)
        assert sized[label].parameters == trained
    assert sized["of-3"].parameters > sized["of-2"].parameters
