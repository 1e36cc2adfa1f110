"""Scoring a model on a task's rows."""

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from peml.data.batch import TaskBatch
from peml.data.batching import Collator, evaluation_batches
from peml.data.encoding import EncodedSplit
from peml.data.rows import Rows
from peml.data.splits import read_groups
from peml.distributed import World
from peml.errors import ModelError, placed
from peml.evaluation.metrics import compute_metrics
from peml.evaluation.scoring.options import score_options
from peml.evaluation.settings import EvaluationSettings
from peml.models import Spelling, TaskModel, TextFamily
from peml.models.limits import pass_limits
from peml.tasks import SOURCE_ROW, Task, TaskRenderer


class Evaluable(Protocol):
    """The parts of a model that evaluation needs; an `AttachedModel` or a loaded `Predictor`."""

    base: TaskModel

    def __call__(self, batch: Any) -> Any:
        """One forward pass."""

    def eval(self) -> Any:
        """Switches dropout off."""

    def prepared(self) -> AbstractContextManager[None]:
        """Computes what many forward passes share once, for the length of the block."""


@dataclass(frozen=True)
class GoldSplit:
    """An encoded split with its right answers.

    Attributes:
        task_id: Index of the task.
        encoded: Tokenised rows.
        gold: Option index, score, text or tuple of right texts of each row.
        groups: The group of each row, if the task's rows belong to groups.
        options: The option texts of each row, if metrics compare texts instead of indices.
        numbers: Number of each row in its source file, for messages; None: 0, 1, 2, ...
    """

    task_id: int
    encoded: EncodedSplit
    gold: Sequence[Any]
    groups: Sequence[Hashable] | None = None
    options: Sequence[Sequence[str]] | None = None
    numbers: Sequence[int] | None = None


def read_gold(
    task: Task, task_id: int, rows: Rows, encoded: EncodedSplit, spelling: Spelling
) -> GoldSplit:
    """Reads the right answers of a split from its raw rows."""
    renderer = TaskRenderer(task)
    examples = [renderer.render(row, number) for number, row in enumerate(rows)]
    numbers = [row.get(SOURCE_ROW, number) for number, row in enumerate(rows)]
    gold = []
    for number, example in zip(numbers, examples, strict=True):
        with placed(f"Task {task.name!r}, row {number} (from 0)"):
            gold.append(spell_gold(task, example.gold, spelling))
    return GoldSplit(
        task_id=task_id,
        encoded=encoded,
        gold=gold,
        groups=read_groups(rows, task),
        options=[example.options for example in examples] if task.answers_in_text else None,
        numbers=numbers,
    )


def spell_gold(task: Task, gold: Any, spelling: Spelling) -> Any:
    """A right answer in the form predictions are compared with; texts as the tokenizer writes them.

    Raises:
        DataError: The text holds a special token that predictions never contain.
    """
    return spelling.respell(gold) if task.type.generates else gold


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for the rows of a split, in their order.

    `predicted` has an option index, score or text per row. `scores` are those of each row's
    options; empty for regression and generation. `notes` say how they were computed, such as that
    contexts were not shared.
    """

    predicted: list[Any]
    scores: list[list[float]]
    notes: tuple[str, ...] = ()


class _Answers:
    """A model's answers to the rows of a split, and the rows where they are NaN or infinite."""

    def __init__(
        self, model: Evaluable, split: EncodedSplit, task_id: int, settings: EvaluationSettings
    ) -> None:
        self._model, self._base = model, model.base
        self._split, self._task_id, self._settings = split, task_id, settings
        self.predicted: list[Any] = [None] * len(split)
        self.scores: list[list[float]] = [[] for _ in range(len(split))]
        self.bad: list[int] = []
        self.computed: list[int] = []

    def _batches(self, tokens: int, *, left: bool = False) -> Iterator[TaskBatch]:
        base = self._base
        collate = Collator(base.family.tokenizer.pad_token_id, left=left)
        return evaluation_batches(self._split, self._task_id, tokens, collate, base.world.part)

    def generate(self) -> None:
        """Writes a text for every row."""
        base, task = self._base, self._base.tasks[self._task_id]
        gaps = self._split.rows.column("gap")
        left = not base.backbone.config.is_encoder_decoder
        for batch in self._batches(self._settings.tokens, left=left):
            rows = batch.rows.tolist()
            texts = base.generate(
                batch.to(base.device),
                max_new_tokens=self._settings.longest(task),
                stop=base.family.stops(task),
                gaps=[gaps[row] for row in rows],
            )
            for row, text in zip(rows, texts, strict=True):
                self.computed.append(row)
                self.predicted[row] = text
                if text is None:
                    self.bad.append(row)

    def score_heads(self) -> None:
        """Scores an encoder's heads; a batch pads rows that have fewer options than others."""
        choice = self._base.tasks[self._task_id].type.has_own_options
        tokens = min(self._settings.tokens, pass_limits(self._base.device).tokens)
        for batch in self._batches(tokens):
            moved = batch.to(self._base.device)
            scores = self._base.predict(self._model(moved), moved, self._task_id).float().cpu()
            options = torch.bincount(batch.groups, minlength=batch.examples).tolist()
            for row, row_scores, count in zip(batch.rows.tolist(), scores, options, strict=True):
                self.score(row, row_scores[:count] if choice else row_scores)

    def share(self, world: World) -> None:
        """Takes the answers that other processes have computed."""
        if world.size == 1:
            return
        mine = [(row, self.predicted[row], self.scores[row]) for row in self.computed]
        for theirs, bad in world.gather((mine, self.bad)):
            for row, predicted, scores in theirs:
                self.predicted[row], self.scores[row] = predicted, scores
            self.bad = sorted({*self.bad, *bad})

    def score(self, row: int, answer: torch.Tensor) -> None:
        """A regression's score, (), or the scores of a row's options, (options,)."""
        self.computed.append(row)
        if not answer.isfinite().all():
            self.bad.append(row)
        elif self._base.tasks[self._task_id].type.has_scale:
            self.predicted[row] = float(answer)
        else:
            self.predicted[row], self.scores[row] = int(answer.argmax()), answer.tolist()


@torch.no_grad()
def predict_split(
    model: Evaluable,
    split: EncodedSplit,
    task_id: int,
    settings: EvaluationSettings,
    numbers: Sequence[int] | None = None,
) -> Predictions:
    """Predicts every row of an encoded split; several processes share its batches.

    The split is encoded for scoring, or for generation if the task generates text. `numbers` are
    those of the rows in messages; default: 0, 1, 2, ...

    Raises:
        ModelError: The model's scores of a row, or the logits of a text, are NaN or infinite.
    """
    base = model.base
    task = base.tasks[task_id]
    answers = _Answers(model, split, task_id, settings)
    notes: set[str] = set()
    model.eval()
    with model.prepared():
        if task.type.generates:
            with base.divided():
                answers.generate()
        elif isinstance(base.family, TextFamily):
            options = score_options(base, split, task_id, settings.scoring, settings.tokens, notes)
            for row, scores in options:
                answers.score(row, base.family.answer(scores[None], task)[0])
        else:
            with base.divided():
                answers.score_heads()
    answers.share(base.world)
    if answers.bad:
        rows = sorted(answers.bad if numbers is None else (numbers[row] for row in answers.bad))
        what = "logits" if task.type.generates else "scores"
        raise base.not_finite(what, task, rows)
    return Predictions(answers.predicted, answers.scores, tuple(sorted(notes)))


def score_split(
    model: Evaluable,
    split: GoldSplit,
    settings: EvaluationSettings,
    context: AbstractContextManager[None] | None = None,
) -> tuple[dict[str, float], Predictions]:
    """Metrics and predictions of a model on a split.

    `context` is entered while predicting: it switches a part off for an ablation.

    Raises:
        ModelError: A score, a prediction or a metric is NaN or infinite.
    """
    with context or nullcontext():
        predictions = predict_split(model, split.encoded, split.task_id, settings, split.numbers)
    if split.options is not None:
        chosen = zip(split.options, predictions.predicted, strict=True)
        predictions = replace(predictions, predicted=[texts[index] for texts, index in chosen])
    task = model.base.tasks[split.task_id]
    metrics = compute_metrics(
        task.metrics, split.gold, predictions.predicted, split.groups, predictions.scores
    )
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ModelError(
                f"Task {task.name!r}: the {name} is {value}, although all {len(split.gold)} "
                "predictions are finite",
                allowed="predictions small enough that the metric does not overflow",
                action=model.base.not_finite_advice,
            )
    return metrics, predictions
