"""Runs another process without PEML, which reads an export as another tool would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from torch import Tensor

from peml.errors import RunError
from peml.export import plain
from peml.export.source import USE_NATIVE
from peml.files import read_tensors, write_tensors


class FreshProcess:
    """Asks a reader of ``plain.py`` about an exported folder in a new process; a context manager.

    ``options`` are further arguments of the reader.
    """

    def __init__(
        self,
        reader: str,
        folder: Path,
        options: Mapping[str, Any] = MappingProxyType({}),
        *,
        trust_remote_code: bool,
    ) -> None:
        settings = {**options, "folder": str(folder), "trust_remote_code": trust_remote_code}
        self._command = [sys.executable, "-P", plain.__file__, reader, json.dumps(settings)]

    def __enter__(self) -> FreshProcess:
        """Starts the process."""
        self._scratch = TemporaryDirectory()
        self._errors = Path(self._scratch.name, "errors").open("w+", encoding="utf-8")
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self._errors,
        }
        self._process: subprocess.Popen[str] = subprocess.Popen(self._command, text=True, **pipes)
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._scratch.cleanup()

    def ask(self, question: str, place: str, **tensors: Tensor) -> Tensor:
        """What a method of the reader answers about a part of the folder."""
        file = Path(self._scratch.name, "question")
        write_tensors(file, tensors)
        line = json.dumps({"ask": question, "place": place, "file": str(file)})
        said = ""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            said = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not said:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip() or "no message").splitlines()[-1]
            raise refusal(f"other tools can't use the exported model: {last}")
        return read_tensors(file.with_name("question.answer"))["answer"]


def refusal(problem: str) -> RunError:
    """The error for an export that differs from the run's model."""
    return RunError(
        problem,
        allowed="a model that other tools load, and that answers as the run's model does",
        action=f"{USE_NATIVE}; and please report the model's type; nothing was written",
    )
