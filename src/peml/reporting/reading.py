"""Reading the files of a run or comparison, with messages that name the file and the field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from peml.errors import RunError
from peml.problems import describe_problems, list_problems, shown

__all__ = ["DAMAGED", "Reader"]

DAMAGED = "restore the file from a copy, or start again in a new folder"

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what a command has written.

    Attributes:
        command: The command, for messages.
        thing: What it makes: a run, a comparison.
    """

    command: str
    thing: str

    def text(self, path: Path) -> str:
        """A text file.

        Raises:
            RunError: It is missing or can't be read.
        """
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RunError(
                f"{path}: the file is missing, so this {self.thing} can't be reported",
                allowed=f"the folder of a {self.thing} that `{self.command}` has finished",
                action=f"run `{self.command}` on this folder again: it goes on where the "
                f"{self.thing} stopped",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: can't be read ({error})", action=DAMAGED) from None

    def read(self, path: Path, kind: type[RecordT], *, version: int | None = None) -> RecordT:
        """A JSON file as a record.

        Args:
            path: The file.
            kind: The record.
            version: What its ``format`` has to be, where it says one.

        Raises:
            RunError: It is missing, malformed or of another format.
        """
        data = self.parse(path, self.text(path))
        found = data.get("format") if isinstance(data, dict) else None
        if None not in (found, version) and found != version:
            raise RunError(
                f"{path}: written in format {found!r}",
                allowed=f"format {version}",
                action=f"read this {self.thing} with the version of peml that wrote it",
            )
        return self.validate(path, data, kind)

    def parse(self, where: Path | str, text: str) -> Any:
        """JSON text.

        Raises:
            RunError: It is not valid JSON.
        """
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise RunError(
                f"{where}: not valid JSON ({error.msg} at line {error.lineno}, "
                f"column {error.colno}): {shown(text)}",
                allowed=f"the file as `{self.command}` wrote it",
                action=DAMAGED,
            ) from None

    def validate(self, where: Path | str, data: Any, kind: type[RecordT]) -> RecordT:
        """Parsed JSON as a record.

        Raises:
            RunError: Fields are missing or wrong; all of them are named.
        """
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            raise RunError(
                list_problems(str(where), describe_problems(error, kind)),
                allowed=f"the file as `{self.command}` wrote it",
                action=DAMAGED,
            ) from None
