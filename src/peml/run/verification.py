"""Checks an exported model against the run's predictions, in a new process without PEML."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peml.data import TaskBatch
from peml.data.encoding import encode_rows
from peml.data.splits import spread
from peml.errors import RunError
from peml.evaluation import EvaluationSettings, predict_split
from peml.evaluation.predictions import same_answer
from peml.export import ExportFormat, SavedModel, find_model
from peml.export.agreement import TOLERANCES
from peml.export.fresh import FreshProcess, refusal
from peml.models import Backbone, ModelOutput, TaskModel
from peml.models.families.stopping import Follow, cut_text
from peml.models.heads import TaskHeads
from peml.run.finished import FinishedRun, load_finished, read_examples
from peml.serving import Predictor, load
from peml.tasks import Task

_ROWS = 16
"""The number of rows per task, spread over its reported rows."""


def against_predictions(
    run: Path, *, rows: int | None = _ROWS, trust_remote_code: bool = False
) -> Callable[[ExportFormat, Path], dict[str, Any]]:
    """The ``prove`` function for `export_model`, which predicts reported rows with an export.

    `run` is the run folder, not its ``model`` folder. At most so many `rows` of each task are
    compared; None: all.

    Returns:
        A function of the format and the written folder; its figures are ``rows``, ``same`` (rows
        with the run's answer), ``largest_difference`` of their scores and ``tolerance``, both
        relative to 1 + the score. It raises `RunError` if the folder answers otherwise than the
        run did, by more than rounding explains.

    Raises:
        RunError: The run isn't finished, or its predictions aren't there.
    """
    finished = load_finished(run)

    def prove(export: ExportFormat, folder: Path) -> dict[str, Any]:
        if export.reader is None:
            raise RunError(
                "this format can't be compared with the run's predictions: it names no reader",
                allowed="formats that say how another tool reads them (ExportFormat.reader)",
                action="leave --verify out",
            )
        predictor = load(find_model(run), "cpu", trust_remote_code=trust_remote_code)
        tolerance = _tolerance(export.saved, finished)
        tasks = [t for t in predictor.tasks if export.task in (None, t.name)]
        count, same, largest = 0, 0, 0.0
        precision = finished.results.precision
        # The run's answers are the quantised model's, which the exported one only comes near to.
        exact = export.exact and (precision is None or precision.quantization is None)
        options = export.reader_options
        with FreshProcess(
            export.reader, folder, options, trust_remote_code=trust_remote_code
        ) as other:
            elsewhere = _Elsewhere(predictor.base, other, export.place)
            for task in tasks:
                if task.name not in finished.predictions:
                    continue  # added after the run
                kept = finished.predictions[task.name]
                chosen = spread(len(kept.rows), rows or len(kept.rows))
                found = _compare(elsewhere, predictor, task, finished, chosen, tolerance)
                if exact and found.refused:
                    raise refusal(found.refused)
                count, same = count + len(chosen), same + found.same
                largest = max(largest, found.largest)
        return {
            "rows": count,
            "same": same,
            "largest_difference": largest,
            "tolerance": tolerance,
        }

    return prove


@dataclass
class _Answering:
    """The parts of a model that evaluation needs, computed by another tool."""

    base: TaskModel

    def __call__(self, batch: Any) -> Any:
        return self.base(batch)

    def eval(self) -> None:
        self.base.eval()

    def prepared(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Elsewhere(TaskModel):
    """A model whose forward passes another tool computes.

    Only the family of the loaded model is used; its weights are freed. `place` returns the folder
    of the export for a task.
    """

    def __init__(self, loaded: TaskModel, other: FreshProcess, place: Callable[[str], str]) -> None:
        backbone = Backbone(loaded.backbone.to("meta"), loaded.family, loaded.settings)
        super().__init__(backbone, loaded.tasks)
        self._other = other
        self._place = place

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, batch: TaskBatch) -> ModelOutput:
        task = self.tasks[int(batch.task_ids[0])]
        tensors = {"rows": batch.input_ids, "mask": batch.attention_mask}
        if batch.labels is not None:
            tensors["labels"] = batch.labels
        if batch.token_type_ids is not None:
            tensors["segments"] = batch.token_type_ids
        scores = self._other.ask("score", self._place(task.name), **tensors)
        if isinstance(self.heads, TaskHeads):  # among the columns of all tasks
            before = sum(self.heads.sizes[: self.tasks.index(task)])
            columns = scores.new_zeros(len(scores), sum(self.heads.sizes))
            columns[:, before : before + scores.shape[1]] = scores
            scores = columns
        nothing = scores.new_zeros(batch.examples)
        return ModelOutput(nothing.sum(), nothing, scores)

    def generate(
        self,
        batch: TaskBatch,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        gaps: Sequence[str] = (),
        follow: Follow | None = None,
    ) -> list[str | None]:
        assert follow is None, "the tokens of another process can't be followed"
        spelling = self.family.spelling.ending_at(stop)
        tokens = self._other.ask(
            "generate",
            self._place(self.tasks[int(batch.task_ids[0])].name),
            rows=batch.input_ids,
            mask=batch.attention_mask,
            new=torch.tensor(max_new_tokens),
            ends=torch.tensor(spelling.ends),
        )
        spaces = gaps or [""] * len(tokens)
        return [
            cut_text(spelling.read(row[row >= 0].tolist()), stop, gap)
            for row, gap in zip(tokens, spaces, strict=True)
        ]


@dataclass
class _Compared:
    """The number of rows with the run's answer, the largest difference of scores, and any error."""

    same: int = 0
    largest: float = 0.0
    refused: str = ""


def _compare(
    elsewhere: TaskModel,
    predictor: Predictor,
    task: Task,
    finished: FinishedRun,
    chosen: Sequence[int],
    tolerance: float,
) -> _Compared:
    kept = finished.predictions[task.name]
    rows = [kept.rows[place] for place in chosen]
    read = read_examples(finished.folder, kept, rows, task)
    examples = [read[row][1] for row in rows]
    split = encode_rows(examples, task, predictor.base.family, task.type.evaluated_as)
    alone = predictor.evaluation.scoring.model_copy(update={"share": False})
    settings: EvaluationSettings = predictor.evaluation.model_copy(update={"scoring": alone})
    said = predict_split(_Answering(elsewhere), split, predictor.tasks.index(task), settings)
    found = _Compared()
    for number, place in enumerate(chosen):
        predicted: Any = said.predicted[number]
        if kept.task.answers_in_text:
            predicted = examples[number].options[predicted]
        stored = kept.predicted[place]
        pairs = list(zip(said.scores[number], kept.scores[place], strict=True))
        if task.type.has_scale:
            pairs = [(predicted, stored)]
        apart = max((abs(a - b) / (1 + abs(b)) for a, b in pairs), default=0.0)
        is_same = apart <= tolerance if task.type.has_scale else same_answer(predicted, stored)
        if not apart <= tolerance or (task.type.generates and not is_same):
            found.refused = found.refused or (
                f"the exported model answers row {kept.rows[place]} of {task.name!r} with "
                f"{kept.task.spell(predicted)!r}, and the run with {kept.task.spell(stored)!r}; "
                f"their scores differ by {apart:.2g}, and rounding explains {tolerance:g}"
            )
        found.same, found.largest = found.same + is_same, max(found.largest, apart)
    return found


def _tolerance(saved: SavedModel, finished: FinishedRun) -> float:
    precision = finished.results.precision
    computed = {"bf16": "bfloat16"}.get("" if precision is None else precision.compute, "float32")
    return max(TOLERANCES[each] for each in (saved.description.model.dtype, computed))
