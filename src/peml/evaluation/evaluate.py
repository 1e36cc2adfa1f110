"""Scoring a model on a task's rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from peml.data.batching import Collator, evaluation_batches
from peml.data.encoding import EncodedSplit
from peml.data.groups import read_groups
from peml.data.rows import Rows
from peml.evaluation.metrics import compute_metrics
from peml.evaluation.scoring import score_options
from peml.evaluation.settings import EvaluationSettings
from peml.models import TaskModel, TextFamily
from peml.tasks import Task, TaskRenderer, TaskType

__all__ = ["GoldSplit", "Predictions", "predict_split", "read_gold", "score_split"]


class Evaluable(Protocol):
    """What evaluation needs of a model: an `AttachedModel` or a loaded one."""

    base: TaskModel

    def __call__(self, batch: Any) -> Any:
        """One forward pass."""

    def eval(self) -> Any:
        """Switches dropout off."""

    def prepared(self) -> AbstractContextManager[None]:
        """Prepares once for many forward passes."""


@dataclass(frozen=True)
class GoldSplit:
    """An encoded split with its right answers.

    Attributes:
        task_id: Index of the task.
        encoded: Tokenised rows.
        gold: Option index, score, text or tuple of right texts of each row.
        groups: The group of each row, where the task's rows belong to groups.
        options: The texts to choose from in each row, where texts are compared, not indices.
    """

    task_id: int
    encoded: EncodedSplit
    gold: Sequence[Any]
    groups: Sequence[Hashable] | None = None
    options: Sequence[Sequence[str]] | None = None


def read_gold(task: Task, task_id: int, rows: Rows, encoded: EncodedSplit) -> GoldSplit:
    """Reads the right answers of a split from its raw rows.

    Args:
        task: The task.
        task_id: Its index.
        rows: The raw rows.
        encoded: The same rows, tokenised.
    """
    renderer = TaskRenderer(task)
    examples = [renderer.render(row, number) for number, row in enumerate(rows)]
    return GoldSplit(
        task_id=task_id,
        encoded=encoded,
        gold=[example.gold for example in examples],
        groups=read_groups(rows, task),
        options=[example.options for example in examples] if task.answers_in_text else None,
    )


@dataclass(frozen=True)
class Predictions:
    """What a model said about the rows of a split, in their order.

    Attributes:
        predicted: Option index, score or text of each row.
        scores: Scores of the options of each row; a regression's or a text's is empty.
    """

    predicted: list[Any]
    scores: list[list[float]]


@torch.no_grad()
def predict_split(
    model: Evaluable, split: EncodedSplit, task_id: int, settings: EvaluationSettings
) -> Predictions:
    """Predicts every row of an encoded split.

    Args:
        model: Attached or loaded model.
        split: Rows encoded for scoring, or for generation where the task generates.
        task_id: Index of the task.
        settings: Batch size, what an option's score is, the longest generated text.
    """
    base = model.base
    task = base.tasks[task_id]
    generates = task.type is TaskType.GENERATION
    collate = Collator(base.family.tokenizer.pad_token_id, left=generates and _is_causal(base))
    predicted: list[Any] = [None] * len(split)
    scores: list[list[float]] = [[] for _ in range(len(split))]
    model.eval()
    with model.prepared():
        if isinstance(base.family, TextFamily) and not generates:
            options = score_options(base, split, task_id, settings.scoring, settings.tokens)
            for row, found in options:
                answer = base.family.answer(found[None], task)[0]
                predicted[row], scores[row] = _read(task, answer)
            return Predictions(predicted, scores)
        for batch in evaluation_batches(split, task_id, settings.tokens, collate):
            moved = batch.to(base.device)
            rows = batch.rows.tolist()
            if generates:
                longest = settings.longest(task)
                texts = base.generate(moved, max_new_tokens=longest, stop=task.stop)
                for row, text in zip(rows, texts, strict=True):
                    predicted[row] = text
                continue
            answers = base.predict(model(moved), moved, task_id).float().cpu()
            for row, answer in zip(rows, answers, strict=True):
                predicted[row], scores[row] = _read(task, answer)
    return Predictions(predicted, scores)


def _is_causal(base: TaskModel) -> bool:
    return not base.backbone.config.is_encoder_decoder


def _read(task: Task, answer: torch.Tensor) -> tuple[Any, list[float]]:
    if task.type is TaskType.REGRESSION:
        return float(answer), []
    return int(answer.argmax()), answer[answer.isfinite()].tolist()


def score_split(
    model: Evaluable,
    split: GoldSplit,
    settings: EvaluationSettings,
    context: AbstractContextManager[None] | None = None,
) -> tuple[dict[str, float], Predictions]:
    """Metrics and predictions of a model on a split.

    Args:
        model: Attached or loaded model.
        split: Rows with their right answers.
        settings: Batch size and the like.
        context: Entered around the predictions (an ablation).
    """
    with context or nullcontext():
        predictions = predict_split(model, split.encoded, split.task_id, settings)
    if split.options is not None:
        chosen = zip(split.options, predictions.predicted, strict=True)
        predictions = replace(predictions, predicted=[texts[index] for texts, index in chosen])
    task = model.base.tasks[split.task_id]
    metrics = compute_metrics(task, split.gold, predictions.predicted, split.groups)
    return metrics, predictions
