"""Answers batches of work; used by one thread."""

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch

from peml.errors import InjectionError, ModelError, PemlError
from peml.evaluation.mixed import score_mixed
from peml.injection.packing import enable_packing
from peml.models import TextFamily
from peml.models.limits import pass_limits
from peml.serving.predictor import Prediction, Predictor, to_prediction
from peml.serving.service.work import AskedRow, Text, Work
from peml.serving.service.writer import Writer

_TRIM = 8192  # tokens after which free memory is given back
_Read = TypeVar("_Read")

Answer = Prediction | PemlError
"""An answer, or why this row has none."""


class Engine:
    """A predictor that answers rows of several tasks together.

    `packs` says whether an encoder reads the rows of a batch without padding.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        predictor.eval()
        self.packs = self._can_pack()
        self._tokenizer = threading.Lock()
        self._writer = Writer(predictor.base)
        self._computed = 0  # tokens since memory was given back
        self._trim = _find_trim()

    @property
    def tokens(self) -> int:
        """Most tokens of a batch.

        An encoder on a CPU takes no longer for several small batches, and they need less memory.
        """
        base, most = self.predictor.base, self.predictor.evaluation.tokens
        if isinstance(base.family, TextFamily):
            return most
        return min(most, pass_limits(base.device).tokens)

    def task_name(self, work: Work) -> str:
        """The name of a row's or text's task."""
        return self.predictor.tasks[work.task_id].name

    def reading(self, read: Callable[..., _Read], *arguments: Any) -> _Read:
        """Calls a function that uses the tokenizer; for threads other than the model's."""
        with self._tokenizer:
            return read(*arguments)

    def reading_now(self, read: Callable[..., _Read], *arguments: Any) -> tuple[_Read] | None:
        """As `reading`, but returns None at once if another thread uses the tokenizer."""
        if not self._tokenizer.acquire(blocking=False):
            return None
        try:
            return (read(*arguments),)
        finally:
            self._tokenizer.release()

    def answer(self, work: Sequence[Work]) -> list[tuple[Work, Answer]]:
        """Scores rows, adds texts to those that are being written, and writes on.

        Returns:
            What is done: all rows, and texts that have ended.
        """
        rows = [each for each in work if isinstance(each, AskedRow)]
        texts = [each for each in work if isinstance(each, Text)]
        done = [*zip(rows, self._score(rows), strict=True), *self._write(texts)]
        self._computed += sum(each.tokens for each in work)
        if self._trim is not None and self._computed >= _TRIM:
            self._trim(0)
            self._computed = 0
        return done

    def _can_pack(self) -> bool:
        base = self.predictor.base
        if not base.family.packs or isinstance(base.family, TextFamily):
            return False
        base.routing.one_task(0, base.device)
        try:
            enable_packing(base.backbone, min(base.family.max_length, 64))
        except InjectionError:
            return False
        return True

    def _score(self, rows: Sequence[AskedRow]) -> list[Answer]:
        base = self.predictor.base
        encoded = [each.row for each in rows]
        with self._tokenizer if self._tokenizes(rows) else nullcontext():
            scores = score_mixed(base, encoded, self.predictor.evaluation, packs=self.packs)
        return [self._answer(row, each) for row, each in zip(rows, scores, strict=True)]

    def _tokenizes(self, rows: Sequence[AskedRow]) -> bool:
        """Whether scoring itself tokenizes a prompt, as pointwise mutual information does."""
        default = self.predictor.evaluation.scoring.normalisation
        tasks = {row.task_id: self.predictor.tasks[row.task_id] for row in rows}
        return any((task.normalisation or default) == "pmi" for task in tasks.values())

    def _answer(self, asked: AskedRow, scores: torch.Tensor) -> Answer:
        task, cut = self.predictor.tasks[asked.task_id], int(asked.row.columns["cut"])
        values = scores.flatten().tolist()
        if not all(map(math.isfinite, values)):
            return self._not_finite("scores", asked.task_id)
        if task.type.has_scale:
            return Prediction(values[0], {}, cut)
        return to_prediction(task, asked.options, values.index(max(values)), values, cut)

    def _not_finite(self, what: str, task_id: int) -> ModelError:
        base = self.predictor.base
        return ModelError(
            f"the model's {what} are NaN or infinite on a row of task {base.tasks[task_id].name!r}",
            allowed="finite numbers",
            action=base.not_finite_advice,
        )

    def _write(self, texts: Sequence[Text]) -> list[tuple[Work, Answer]]:
        try:
            ended = self._writer.write(texts)
        except Exception:
            self._writer.clear()
            raise
        return [
            (
                text,
                Prediction(text.text.strip(), {}, text.cut)
                if finite
                else self._not_finite("logits", text.task_id),
            )
            for text, finite in ended
        ]


def _find_trim() -> Callable[[int], int] | None:
    """A function that returns free memory to the system; None if the allocator isn't glibc's.

    Batches of many different sizes fragment the heap, so it would grow without this.
    """
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
