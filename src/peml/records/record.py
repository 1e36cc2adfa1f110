"""The base of all records: one class reads and writes each file.

A file that is missing, cut short or edited is refused with an error that names file and field.
Unknown fields are ignored on purpose, so that folders of later versions can be read. Fields that
were added later have a default, since older folders lack them.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from peml.errors import RunError
from peml.files import write_json
from peml.problems import describe_problems, list_problems, shown

DAMAGED = "restore the file from a copy, or start again in a new folder"

_MADE_BY = {"run": "peml fit", "study": "peml tune", "comparison": "peml compare"}


def _null_is_nan(value: Any) -> Any:
    """Strict JSON has no NaN; null stands for it."""
    return math.nan if value is None else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Score = Annotated[float, BeforeValidator(_null_is_nan)]
"""A number that may be NaN: a diverged task is shown as such, not refused."""

Number = Annotated[float | None, AfterValidator(_finite)]
"""A number that can be shown and averaged, or None: null, NaN and infinity are none."""


class Record(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    THING: ClassVar[str] = "run"
    """What the folder is of: a run, a study, a comparison."""

    @classmethod
    def check(cls, where: Path | str, data: Any) -> Self:
        """Parsed JSON as this record.

        Raises:
            RunError: Fields are missing or wrong; the message names them all.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RunError(
                list_problems(str(where), describe_problems(error, cls)),
                allowed=f"the file as `{_MADE_BY[cls.THING]}` wrote it",
                action=DAMAGED,
            ) from None


class FileRecord(Record):
    """A whole JSON file of a folder; `FILE` is unset if the file's name varies."""

    FILE: ClassVar[str] = ""
    """Name of the file."""

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> Self:
        """Reads the file of a folder; ``name`` is for files whose name varies.

        Raises:
            RunError: The file is missing, malformed or of another format.
        """
        path = folder / (name or cls.FILE)
        data = parse_json(path, read_text(path, cls.THING), cls.THING)
        known = cls.model_fields.get("format")
        found = data.get("format") if isinstance(data, dict) else None
        if known is not None and found != known.default:
            raise RunError(
                f"{path}: written in format {found!r}",
                allowed=f"format {known.default}",
                action=f"read this {cls.THING} with the version of peml that wrote it",
            )
        return cls.check(path, data)

    @classmethod
    def find(cls, folder: Path, name: str | None = None) -> Self | None:
        """Like `read`, but returns None if the file doesn't exist."""
        return cls.read(folder, name) if (folder / (name or cls.FILE)).is_file() else None

    def write(self, folder: Path, name: str | None = None) -> None:
        """Replaces the file atomically; `read` gives the same record back."""
        write_json(folder / (name or self.FILE), self.model_dump(mode="json"))


def read_text(path: Path, thing: str = "run") -> str:
    """The text of a file in a folder.

    Raises:
        RunError: The file is missing or can't be read.
    """
    command = _MADE_BY[thing]
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(
            f"{path}: the file is missing",
            allowed=f"the folder of a {thing} that `{command}` has finished",
            action=f"run `{command}` on this folder again: it continues where the {thing} stopped",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: can't be read ({error})", action=DAMAGED) from None


def parse_json(where: Path | str, text: str, thing: str = "run") -> Any:
    """Parses JSON.

    Raises:
        RunError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(
            f"{where}: not valid JSON ({error}): {shown(text)}",
            allowed=f"the file as `{_MADE_BY[thing]}` wrote it",
            action=DAMAGED,
        ) from None
