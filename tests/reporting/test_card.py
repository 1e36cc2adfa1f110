"""The model card of a finished run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from peml.files import read_json
from peml.reporting.run.card import list_unfilled, render_card, write_card
from peml.reporting.run.results import load_run
from tests.reporting.pages import markdown_tables


def test_the_front_matter_is_what_the_hub_reads(searched: Path) -> None:
    run = load_run(searched)
    data: Any = ModelCard(render_card(run)).data
    assert data.library_name == "peml"
    assert run.results.method in data.tags
    found = {r.task_name: (r.metric_type, r.metric_value) for r in data.eval_results}
    assert found == {
        name: (task.metric, pytest.approx(task.value, abs=1e-5))
        for name, task in run.results.tasks.items()
    }


def test_the_card_says_what_the_run_found(searched: Path) -> None:
    run = load_run(searched)
    card = render_card(run)
    scores = next(t for t in markdown_tables(card) if "baseline" in t[0])
    assert [row[0] for row in scores[2:]] == [*run.results.tasks, "**mean**"]
    for task in run.results.tasks.values():
        assert f"{task.value:.3f}" in card
        if task.low is not None:
            assert f"[{task.low:.3f}, {task.high:.3f}]" in card
    for heading in ("How to use it", "Data", "Training", "Limits", "Licence"):
        assert f"\n## {heading}\n" in card
    assert "README-network.png" in card
    assert f"{run.results.cost.total_trainable_parameters:,}" in card
    long = replace(run, plan=run.plan.model_copy(update={"max_length": 51}))
    assert "read beyond 51 tokens" in render_card(long)  # predictions may read longer texts


def test_no_folder_of_this_machine_is_named(searched: Path) -> None:
    results = read_json(searched / "results.json") | {"model": "/home/me/models/tiny"}
    (searched / "results.json").write_text(json.dumps(results))
    card = render_card(load_run(searched))
    assert "/home/me" not in card
    assert "Base model: tiny." in card
    assert "To fill: where to get the base model." in list_unfilled(card)
    results["model"] = "owner/tiny"
    (searched / "results.json").write_text(json.dumps(results))
    card = render_card(load_run(searched))
    data: Any = ModelCard(card).data
    assert data.base_model == "owner/tiny"
    assert not any("base model can" in each for each in list_unfilled(card))


def test_what_is_filled_in_is_no_longer_asked_for(plain: Path) -> None:
    card = render_card(load_run(plain))
    asked = list_unfilled(card)
    assert any("licences" in each for each in asked)
    assert any("license: ..." in each for each in asked)
    filled = card.replace("To fill:", "").replace("---\n", "---\nlicense: mit\n", 1)
    assert list_unfilled(filled) == []


def test_a_card_that_is_there_stays(searched: Path) -> None:
    write_card(searched)  # a run that exports nothing has no card
    assert not (searched / "model").exists()
    (searched / "model").mkdir()
    write_card(searched)
    names = {path.name for path in (searched / "model").iterdir()}
    assert names == {"README.md", "README-network.png"}
    (searched / "model" / "README.md").write_text("mine")
    write_card(searched)
    assert (searched / "model" / "README.md").read_text() == "mine"
