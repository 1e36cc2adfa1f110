"""Predicts the rows of a file of any length, one window of rows at a time; can be resumed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from peml.data.rows import Row
from peml.data.unlabelled import UnlabelledFile, Window
from peml.errors import DataError, RunError, placed
from peml.files import disk_errors, read_json, write_bytes, write_json
from peml.locks import LOCK, lock_folder
from peml.serving.formats import AnswerFormat
from peml.serving.predictor import Predictor
from peml.tasks import TaskRenderer

WINDOW = 2048
"""Rows of a window: enough to sort by length, few enough to lose with a kill."""

_PLAN = "plan.json"


@dataclass
class BulkPrediction:
    """The prediction of a file's rows.

    Attributes:
        form: How answers are written.
        window: Most rows of a window.
        advance: Called with the number of rows as they are done.
        done: Rows that are answered.
        reused: Rows of these that an earlier, stopped command had answered.
        cut: Rows that were longer than the model takes.
    """

    model: Predictor
    task: str
    rows: UnlabelledFile
    form: AnswerFormat
    window: int = WINDOW
    advance: Callable[[int], None] = lambda rows: None
    done: int = field(default=0, init=False)
    reused: int = field(default=0, init=False)
    cut: int = field(default=0, init=False)

    def write_to(self, stream: IO[bytes]) -> None:
        """Writes the answers to a stream as they come; an error ends it at a window's start."""
        with self._keeping("written"):
            self.form.join((self._answer(window)[0] for window in self._windows()), stream)

    def write_file(self, path: Path, source: Mapping[str, str]) -> None:
        """Writes the answers as a file, which appears when it is complete.

        Until then they are in a folder beside it, a file per window. The same command reuses those
        whose rows are unchanged. ``source`` is what answers depend on besides the rows, by name,
        such as the model's checksum: an unfinished command with another source is refused.

        Raises:
            PemlError: A row can't be used or answered; answers before its window are kept.
            RunError: Another process writes this file, or the disk is full.
        """
        folder = path.with_name(f".{path.name}.parts")
        partial = path.with_name(f".{path.name}.partial")
        with lock_folder(folder):
            parts = self._write_parts(folder, path, source)
            with disk_errors(path):
                with partial.open("wb") as file:
                    self.form.join((part.read_bytes() for part in parts), file)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
                _clear(folder)

    def _write_parts(self, folder: Path, path: Path, source: Mapping[str, str]) -> list[Path]:
        _begin(folder, path, source)
        there = {each.name.partition("-")[0]: each for each in folder.iterdir()}
        try:
            with self._keeping(f"in {folder}: the same command continues from there"):
                return [self._part(folder, window, there) for window in self._windows()]
        except BaseException:
            if {each.name for each in folder.iterdir()} == {_PLAN, LOCK}:
                _clear(folder)  # what can't work leaves nothing behind
            raise

    def _windows(self) -> Iterator[Window]:
        """Yields the windows, and counts each one when the next is requested."""
        for window in self.rows.windows(self.window):
            yield window
            self.done += len(window.rows)
            self.advance(len(window.rows))

    @contextmanager
    def _keeping(self, where: str) -> Iterator[None]:
        """Adds to an error where the answers before the bad row are kept."""
        try:
            yield
        except DataError as error:
            if not self.done:
                raise
            action = f"{error.action}. {self.done:,} answers are {where}".replace("..", ".")
            raise DataError(error.problem, allowed=error.allowed, action=action) from error

    def _part(self, folder: Path, window: Window, there: Mapping[str, Path]) -> Path:
        """The file of a window's answers; it is computed unless an earlier command left it."""
        content = json.dumps([window.first, window.rows, window.kept], default=repr)
        name = hashlib.sha256(content.encode()).hexdigest()[:32]
        if name in there:
            self.reused += len(window.rows)
            self.cut += int(there[name].name.rpartition("-")[2])
            return there[name]
        part, cut = self._answer(window)
        path = folder / f"{name}-{cut}"
        write_bytes(path, part)
        return path

    def _answer(self, window: Window) -> tuple[bytes, int]:
        """A window's answers, and how many rows were cut."""
        renderer, examples = TaskRenderer(self.model.task(self.task)), []
        for number, (row, place) in enumerate(
            zip(window.rows, window.places, strict=True), start=window.first
        ):
            with placed(place):
                examples.append(renderer.render(row, number, labelled=False))
        answers = self.model.predict_examples(self.task, examples)
        lines: list[Row] = [
            {**kept, "row": number, "prediction": answer.value, "scores": answer.scores}
            for number, (kept, answer) in enumerate(
                zip(window.kept, answers, strict=True), start=window.first
            )
        ]
        cut = sum(answer.cut > 0 for answer in answers)
        self.cut += cut
        return self.form.encode(lines), cut


def _begin(folder: Path, path: Path, source: Mapping[str, str]) -> None:
    """Opens the folder of an unfinished file, or makes it."""
    plan = folder / _PLAN
    if plan.exists():
        begun = read_json(plan)
        differ = [name for name in {**source, **begun} if begun.get(name) != source.get(name)]
        if differ:
            name = differ[0]
            raise RunError(
                f"{path} was begun with other settings: {name} was {begun.get(name)}, and is "
                f"{source.get(name)}",
                allowed="the command that began it, which continues where it stopped",
                action=f"give the same {', '.join(differ)}, choose another output, or delete "
                f"{folder}",
            )
        return
    write_json(plan, dict(source))


def _clear(folder: Path) -> None:
    """Removes the folder of a file; its lock last, since another process may be waiting for it."""
    for each in folder.iterdir():
        if each.name != LOCK:
            each.unlink()
    (folder / LOCK).unlink()
    with suppress(OSError):  # the other process has locked it meanwhile
        folder.rmdir()
