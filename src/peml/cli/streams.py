"""Files and standard streams of rows, and their formats."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from peml.errors import ConfigError, nearest, renaming

STREAM = Path("-")
"""Standard input or output."""

_FORMATS = ("jsonl", "csv", "parquet")


def format_of(path: Path, told: str | None, option: str) -> str:
    """The format that was named (by `option`), or that of the file's ending; JSONL without one."""
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    name = told or (ending if path.suffix else "jsonl")
    if name not in _FORMATS:
        shown = f"{option} is {told!r}.{nearest(name, _FORMATS)}" if told else ""
        raise ConfigError(
            shown or f"the name of {path} doesn't say of which format it is",
            allowed=", ".join(_FORMATS),
            action=f"give one of them with {option}, or as the file's ending",
        )
    return name


@contextmanager
def as_file(source: Path, told: str | None) -> Iterator[Path]:
    """A file whose name says its format: the file itself, a link to it, or standard input's copy.

    Rows are read more than once, so standard input is copied to a temporary file first. Errors
    inside are raised again with the name of `source`.
    """
    if source != STREAM and told is None:
        yield source
        return
    with TemporaryDirectory(prefix="peml-") as folder:
        packed = ".gz" if source.suffix == ".gz" else ""
        path = Path(folder) / f"rows.{format_of(source, told, '--input-format')}{packed}"
        if source == STREAM:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            path.symlink_to(source.absolute())
        with renaming({str(path): "standard input" if source == STREAM else str(source)}):
            yield path
