"""Measures the latency of the final models, alternating between them on the same rows."""

import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from rich.console import Console

from peml.comparison.cells import Cell
from peml.data import Collator, TaskBatch
from peml.evaluation import EvaluationSettings
from peml.models import choose_device
from peml.records.record import FileRecord
from peml.run.preparation import Prepared, prepare
from peml.serving import Predictor, load

_ROWS = 32
_WARM_UP = 3


class Latency(FileRecord):
    """``latency.json``: milliseconds per row, by suite and label, and how they were measured."""

    FILE: ClassVar[str] = "latency.json"
    THING: ClassVar[str] = "comparison"

    format: int = 1
    rows: int
    threads: int
    milliseconds: dict[str, dict[str, float]]


def read_latency(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds per row, by suite and label; empty if nothing was measured."""
    found = Latency.find(folder)
    return {} if found is None else found.milliseconds


def measure_latency(cells: Sequence[Cell], folder: Path, console: Console) -> None:
    """Measures what isn't in ``latency.json`` yet: the median time of one row at a time.

    The first finished model of each method is measured. All models of a suite are measured
    together, once in order and once in reverse, so that changes of the machine's speed affect all
    alike.
    """
    known = read_latency(folder)
    for suite in dict.fromkeys(cell.suite for cell in cells):
        models: dict[str, Cell] = {}
        for cell in cells:
            if cell.suite == suite and cell.is_finished and (cell.folder / "model").is_dir():
                models.setdefault(cell.label, cell)
        if models.keys() <= known.get(suite, {}).keys():
            continue
        console.print(f"measuring inference on {suite}", highlight=False)
        folders = {label: cell.folder for label, cell in models.items()}
        prepared = prepare(next(iter(models.values())).config)
        known[suite] = known.get(suite, {}) | _measure(folders, prepared)
        measured = Latency(rows=_ROWS, threads=torch.get_num_threads(), milliseconds=known)
        measured.write(folder)


def _measure(folders: dict[str, Path], prepared: Prepared) -> dict[str, float]:
    device = choose_device()
    rows = _single_rows(prepared, device)
    settings = prepared.config.evaluation
    seconds: dict[str, list[float]] = {label: [] for label in folders}
    for label in (*folders, *reversed(folders)):
        # The folders are this comparison's own, and the config is its caller's.
        trusted = prepared.config.model.trust_remote_code
        model = load(folders[label], device, trust_remote_code=trusted)
        for task_id, batch in rows[:_WARM_UP]:
            _time_one(model, task_id, batch, settings)
        seconds[label] += [_time_one(model, task_id, batch, settings) for task_id, batch in rows]
        del model  # one at a time: a large base model fits once
    return {label: 1000 * statistics.median(times) for label, times in seconds.items()}


def _single_rows(prepared: Prepared, device: torch.device) -> list[tuple[int, TaskBatch]]:
    """Some rows of every task, evenly spaced, each a batch of its own.

    They are of the development split, or of the reported one if no task is trained.
    """
    splits = prepared.development or prepared.reported
    collate = Collator(prepared.family.tokenizer.pad_token_id)
    a_task = math.ceil(_ROWS / len(splits))
    rows = []
    for split in splits:
        encoded = split.encoded.rows
        count = min(a_task, len(encoded))
        for row in np.linspace(0, len(encoded) - 1, count).astype(int):
            numbers = np.array([row])
            batch = collate(encoded.read(numbers), [split.task_id], numbers)
            rows.append((split.task_id, batch.to(device)))
    return rows


@torch.no_grad()
def _time_one(
    model: Predictor, task_id: int, batch: TaskBatch, settings: EvaluationSettings
) -> float:
    base = model.base
    since = time.perf_counter()
    task = base.tasks[task_id]
    if task.type.generates:
        base.generate(batch, max_new_tokens=settings.longest(task), stop=base.family.stops(task))
    else:
        base.predict(model(batch), batch, task_id).cpu()  # the copy waits for the device
    return time.perf_counter() - since


def drop_models(cells: Sequence[Cell]) -> None:
    """Removes the final models of finished cells; their results stay."""
    for cell in cells:
        shutil.rmtree(cell.folder / "model", ignore_errors=True)
