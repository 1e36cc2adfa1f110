"""The evaluation phase: scores every task on its reported split, with ablations; resumable."""

import json
import time
from functools import partial

from peml.analysis.scores import score_interval
from peml.evaluation import GoldSplit, TaskPredictions
from peml.evaluation.evaluate import Predictions, score_split
from peml.evaluation.metrics import describe_classes
from peml.evaluation.predictions import KeptTask, write_predictions
from peml.methods.attached import AttachedModel
from peml.records.run import TaskResult, TaskScored
from peml.run.cost import CostMeter
from peml.run.folder import RunFolder
from peml.run.preparation import Prepared, majority_of
from peml.tasks import SOURCE_ROW


def evaluate_run(
    prepared: Prepared, model: AttachedModel, folder: RunFolder, cost: CostMeter
) -> dict[str, TaskResult]:
    """Scores the tasks that have no score yet, and returns all tasks' results by name."""
    results = {}
    world = model.base.world
    reported = prepared.config.evaluation.split == "reported"
    for split in prepared.reported if reported else prepared.development:
        task = prepared.tasks[split.task_id]
        name = f"evaluation/{task.name}.json"
        scored = world.from_first(partial(TaskScored.find, folder.path, name))
        if scored is None:
            since = time.monotonic()
            result = _evaluate_task(prepared, model, split, folder)
            scored = TaskScored(result=result, seconds=time.monotonic() - since)
            if world.is_first:
                scored.write(folder.path, name)
        cost.add("evaluate", scored.seconds)
        results[task.name] = scored.result
    return results


def _evaluate_task(
    prepared: Prepared, model: AttachedModel, split: GoldSplit, folder: RunFolder
) -> TaskResult:
    task = prepared.tasks[split.task_id]
    settings = prepared.config.evaluation
    headline = task.metrics[0]
    metrics, said = score_split(model, split, settings)
    kept = _kept(prepared, split, said)
    if model.base.world.is_first:
        write_predictions(folder.path, kept)
    interval = score_interval(kept, headline)
    classes = describe_classes(task.labels, kept.gold, kept.predicted) if task.labels else None
    ablations = model.ablations() if settings.ablations else {}
    return TaskResult.model_validate({
        "metric": headline,
        "value": metrics[headline],
        "low": interval.low,
        "high": interval.high,
        "all": metrics,
        "majority": kept.majority()[headline],
        "majority_of": kept.task.majority_of,
        "rows": len(split.gold),
        "notes": list(said.notes),
        "classes": classes,
        **{
            name: score_split(model, split, settings, off())[0][headline]
            for name, off in ablations.items()
        },
    })  # fmt: skip


def _kept(prepared: Prepared, split: GoldSplit, said: Predictions) -> TaskPredictions:
    task = prepared.tasks[split.task_id]
    data = prepared.loaded.data[split.task_id]
    scored = prepared.config.evaluation.split
    return TaskPredictions(
        task=KeptTask(
            name=task.name,
            version=task.version,
            type=task.type,
            metrics=task.metrics,
            labels=task.labels,
            split=scored,
            majority=prepared.majority[split.task_id],
            majority_of=majority_of(prepared.train[split.task_id]),
            answers_in_text=task.answers_in_text,
            group=task.group,
            average=task.average,
        ),
        rows=(data.reported if scored == "reported" else data.development).column(SOURCE_ROW),
        gold=split.gold,
        predicted=said.predicted,
        scores=said.scores,
        groups=None if split.groups is None else [json.dumps(group) for group in split.groups],
    )
