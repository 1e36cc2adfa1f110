"""Prediction with a finished model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from peml.data import TaskBatch
from peml.data.encoding import encode_rows
from peml.data.task_columns import read_list
from peml.errors import CheckpointError, ConfigError, DataError, TaskError, nearest
from peml.evaluation import EvaluationSettings, predict_split
from peml.export import find_model, load_saved, open_model
from peml.models import ModelOutput, TaskModel, choose_device, make_room
from peml.models.device import check_dtype
from peml.models.prepacked import prepack
from peml.problems import describe_problems, list_problems, shown
from peml.tasks import Example, Task, TaskRenderer

_LEAST_TOKENS = 16  # as for evaluation.tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer for one row.

    Attributes:
        value: Label name, option text, score, or generated text.
        scores: Probability of each label or option (softmax of their scores); empty for regression
            and generation. Equal option texts count as one option.
        cut: Number of tokens cut from the row to fit the model's length limit.
    """

    value: str | float
    scores: dict[str, float]
    cut: int = 0


class Predictor:
    """A loaded model that predicts its tasks; made by `load`.

    Args:
        model: The model, in evaluation mode.
        evaluation: How answers are scored and generated; default: PEML's default settings.
        digest: Checksum of the model's folder; empty if it was not loaded from one.
    """

    def __init__(
        self, model: TaskModel, evaluation: EvaluationSettings | None = None, digest: str = ""
    ) -> None:
        self.base = model
        self.evaluation = evaluation or EvaluationSettings()
        self.digest = digest

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks the model was trained on."""
        return self.base.tasks

    def task(self, name: str) -> Task:
        """The task with this name; an unknown one raises a `TaskError`."""
        return self.tasks[self._task_id(name)]

    def __call__(self, batch: TaskBatch) -> ModelOutput:
        """One forward pass."""
        output: ModelOutput = self.base(batch)
        return output

    def eval(self) -> Predictor:
        """Switches dropout off."""
        self.base.eval()
        return self

    def prepack(self) -> Predictor:
        """Makes a model on a CPU faster, see `peml.models.prepack`; it can only predict from then.

        Answers change by rounding, about 1e-7 of a score in float32.
        """
        prepack(self.base.backbone)
        return self

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Does nothing: a loaded model's prefix is computed already."""
        yield

    def predict(
        self,
        task: str,
        rows: Sequence[Mapping[str, Any]],
        settings: EvaluationSettings | None = None,
    ) -> list[Prediction]:
        """Predicts rows of one task, in their order.

        Args:
            task: Name of a task the model was trained on.
            rows: Rows with the task's input columns, read like rows of files; no label is needed.
            settings: Batch size, how options are scored, the longest generated text; default: the
                evaluation settings of the run that trained the model.

        Raises:
            TaskError: The model has no such task.
            DataError: The rows aren't a list of mappings, or one lacks a column, or can't be
                rendered or tokenised.
        """
        definition = self.task(task)
        _check_rows(rows)
        if len(rows) == 0:
            return []
        renderer = TaskRenderer(definition)
        read = enumerate(read_list(rows, definition))
        examples = [renderer.render(row, number, labelled=False) for number, row in read]
        return self.predict_examples(task, examples, settings)

    def predict_examples(
        self, task: str, examples: Sequence[Example], settings: EvaluationSettings | None = None
    ) -> list[Prediction]:
        """As `predict`, of at least one row that a `TaskRenderer` of the task has rendered."""
        task_id = self._task_id(task)
        definition = self.tasks[task_id]
        split = encode_rows(examples, definition, self.base.family, definition.type.evaluated_as)
        numbers = [example.index for example in examples]
        answers = predict_split(self, split, task_id, settings or self.evaluation, numbers)
        cuts = split.rows.column("cut")
        return [
            to_prediction(definition, example.options, value, scores, cut)
            for example, value, scores, cut in zip(
                examples, answers.predicted, answers.scores, cuts, strict=True
            )
        ]

    def _task_id(self, name: str) -> int:
        names = [task.name for task in self.tasks]
        if name not in names:
            raise TaskError(
                f"the model was not trained on a task {name!r}.{nearest(name, names)}",
                allowed=", ".join(names),
                action="name one of its tasks",
            )
        return names.index(name)


def _check_rows(rows: Any) -> None:
    """Raises a DataError if rows are not a sequence of mappings; texts and data frames are none."""
    wrong = rows
    if hasattr(rows, "__len__") and not isinstance(rows, str | Mapping):
        wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        records = 'rows.astype(object).where(rows.notna(), None).to_dict("records")'
        is_frame = hasattr(rows, "to_dict")
        raise DataError(
            f"{shown(wrong)} is no row with columns (rows: {type(rows).__name__}).",
            allowed="a list of rows, each a mapping such as {COLUMN: TEXT}",
            action=f"Pass {records}." if is_frame else "Pass a list of mappings.",
        )


def to_prediction(
    task: Task, options: tuple[str, ...], value: Any, scores: Sequence[float], cut: int
) -> Prediction:
    """The answer for one row, whose `value` is an option's index, a score or a text.

    Only options have scores.
    """
    if not scores:
        return Prediction(value, {}, cut)
    names = options if task.type.has_own_options else task.labels
    distinct: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        distinct[name] = max(score, distinct.get(name, score))
    highest = max(distinct.values())
    shares = {name: math.exp(score - highest) for name, score in distinct.items()}
    total = math.fsum(shares.values())
    return Prediction(names[value], {name: each / total for name, each in shares.items()}, cut)


def load(
    path: Path | str,
    device: str | torch.device = "auto",
    *,
    dtype: str = "auto",
    batch_tokens: int | None = None,
    trust_remote_code: bool = False,
) -> Predictor:
    """Loads the model of a finished run, or an exported one.

    Args:
        path: Run folder, or its ``model`` folder.
        device: ``auto`` (a GPU if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, or a
            PyTorch device.
        dtype: Type of the frozen weights: ``float32``, ``bfloat16``, ``float16``, or ``auto``: as
            the model was saved. Another type rounds, so answers may differ from the run's.
        batch_tokens: Maximum tokens of a batch, padding included; default: as in the run.
        trust_remote_code: Run Python code that comes with the model; read that code first. No file
            in the folder can set this.

    Raises:
        CheckpointError: There is no finished model, or its files were altered.
        ModelError: There is no such device or type, or the model needs its own Python code, and
            `trust_remote_code` is False.
        ConfigError: `batch_tokens` is below 16.
    """
    chosen, weights = choose_device(device), check_dtype(dtype)
    if batch_tokens is not None and batch_tokens < _LEAST_TOKENS:
        raise ConfigError(
            f"batch_tokens is {batch_tokens}",
            allowed=f"{_LEAST_TOKENS} or more",
            action="raise it, or leave it out for the run's own",
        )
    folder = find_model(Path(path))
    saved = open_model(folder)
    model = load_saved(saved, chosen, dtype=weights, trust_remote_code=trust_remote_code)
    try:
        evaluation = EvaluationSettings.model_validate(saved.description.evaluation)
    except ValidationError as error:
        where, problems = folder / "peml.json", describe_problems(error, EvaluationSettings)
        raise CheckpointError(
            list_problems(f"the evaluation of {where}", problems),
            action="restore the file, or load it with the version of peml that wrote it",
        ) from error
    if batch_tokens is not None:
        evaluation = evaluation.model_copy(update={"tokens": batch_tokens})
    prompt = 0 if model.prompt.vectors is None else len(model.prompt.vectors)
    make_room(model.family, model.tasks, evaluation.max_new_tokens, prompt)
    return Predictor(model, evaluation, saved.description.digest)
