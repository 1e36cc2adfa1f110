"""Calling the command line and reading what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peml.cli import main
from peml.evaluation import read_predictions
from peml.evaluation.predictions import write_predictions


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    error: str


def peml(capsys: pytest.CaptureFixture[str], *words: object) -> Said:
    """Runs a command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    code = ended.value.code
    return Said(code if isinstance(code, int) else int(bool(code)), printed.out, printed.err)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file under a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def rescored(run: Path, task: str, **changes: Any) -> None:
    """Changes predictions, and the results with them."""
    kept = read_predictions(run, task)
    columns = {name: getattr(kept, name) for name in ("rows", "gold", "predicted", "scores")}
    changed = type(kept)(kept.task, **(columns | changes))
    write_predictions(run, changed)
    results = json.loads((run / "results.json").read_text())
    found = changed.metrics()
    results["tasks"][task] |= {"all": found, "value": found[kept.task.metrics[0]]}
    results["tasks"][task]["rows"] = len(changed.rows)
    (run / "results.json").write_text(json.dumps(results))
