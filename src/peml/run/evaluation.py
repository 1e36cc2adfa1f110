"""The evaluate phase: every task on its reported split, with ablations; resumable by task."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from peml.evaluation import GoldSplit, Predictions, compute_metrics, score_split
from peml.files import read_json, write_json, write_text
from peml.methods import AttachedModel
from peml.run.cost import Cost
from peml.run.folder import RunFolder
from peml.run.preparation import Prepared

__all__ = ["evaluate_run"]


def evaluate_run(
    prepared: Prepared, model: AttachedModel, folder: RunFolder, cost: Cost
) -> dict[str, Any]:
    """Scores what wasn't scored yet and returns the tasks' results by name."""
    results = {}
    reported = prepared.config.evaluation.split == "reported"
    for split in prepared.reported if reported else prepared.development:
        task = prepared.tasks[split.task_id]
        path = folder.path / "evaluation" / f"{task.name}.json"
        if path.is_file():
            saved = read_json(path)
        else:
            since = time.monotonic()
            result = _evaluate_task(prepared, model, split, folder.path / "predictions")
            saved = {"result": result, "seconds": time.monotonic() - since}
            write_json(path, saved)
        cost.add("evaluate", saved["seconds"])
        results[task.name] = saved["result"]
    return results


def _evaluate_task(
    prepared: Prepared, model: AttachedModel, split: GoldSplit, predictions: Path
) -> dict[str, Any]:
    task = prepared.tasks[split.task_id]
    settings = prepared.config.evaluation
    headline = task.metrics[0]
    metrics, said = score_split(model, split, settings)
    _write_predictions(predictions / f"{task.name}.jsonl", split, said)
    constant = [prepared.majority[split.task_id]] * len(split.gold)
    result = {
        "metric": headline,
        "value": metrics[headline],
        "all": metrics,
        "majority": compute_metrics(task, split.gold, constant)[headline],
        "rows": len(split.gold),
    }
    if settings.ablations:
        for name, off in model.ablations().items():
            result[name] = score_split(model, split, settings, off())[0][headline]
    return result


def _write_predictions(path: Path, split: GoldSplit, said: Predictions) -> None:
    lines = [
        json.dumps({"row": row, "gold": gold, "predicted": predicted, "scores": scores})
        for row, (gold, predicted, scores) in enumerate(
            zip(split.gold, said.predicted, said.scores, strict=True)
        )
    ]
    write_text(path, "\n".join(lines) + "\n")
