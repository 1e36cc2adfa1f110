"""The final model says in a fresh process what the model in training said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import peml
from peml.evaluation import predict_split, read_predictions
from peml.run.folder import RunFolder
from peml.run.preparation import prepare
from tests.e2e.apart import run_apart
from tests.e2e.fixtures import Runs
from tests.e2e.toy import FAMILIES

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("unrendered")]

_CLOSE = 1e-5
_RUNS = [*((family, "peml") for family in FAMILIES), ("causal", "lora+prefix"), ("encoder", "lora")]


@pytest.mark.parametrize(("family", "method"), _RUNS)
def test_a_loaded_model_gives_the_scores_of_the_model_in_training(
    runs: Runs, tmp_path: Path, family: str, method: str
) -> None:
    folder, said = runs(family, method), tmp_path / "said.json"
    assert run_apart(_predict, folder, said) == 0
    loaded = json.loads(said.read_text())
    names = [path.stem for path in (folder / "predictions").iterdir()]
    assert loaded.keys() == set(names)
    for task in names:
        kept = read_predictions(folder, task)
        rows = zip(kept.predicted, kept.scores, loaded[task], strict=True)
        for trained, trained_scores, (predicted, scores) in rows:
            assert scores == pytest.approx(trained_scores, abs=_CLOSE)
            assert predicted == (
                pytest.approx(trained, abs=_CLOSE) if isinstance(predicted, float) else trained
            )


def _predict(folder: Path, output: Path) -> None:
    prepared = prepare(RunFolder(folder).config())
    model = peml.load(folder)
    said: dict[str, Any] = {}
    for split in prepared.reported:
        found = predict_split(model, split.encoded, split.task_id, prepared.config.evaluation)
        said[prepared.tasks[split.task_id].name] = list(
            zip(found.predicted, found.scores, strict=True)
        )
    output.write_text(json.dumps(said))
