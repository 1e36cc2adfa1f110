"""Checksums of a run's inputs: rows, definitions of tasks, base model.

A run can only be continued with the same inputs. Counts don't suffice: swapped labels, another
order of labels or replaced weights leave every count the same.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from peml.errors import RunError
from peml.models import identify_model
from peml.records import Identity, TaskIdentity
from peml.run.preparation import Prepared
from peml.tasks import Task

_SPLITS = ("train", "development", "reported")
# Ignored: the name is the key, rows are compared themselves, and a description has no effect.
_NOT_THE_MEANING = {"name", "source", "description"}


def identify(prepared: Prepared) -> Identity:
    """Checksums of a run's rows, tasks and base model."""
    return Identity(
        tasks={
            item.task.name: TaskIdentity(
                rows={split: getattr(item, split).checksum()[:32] for split in _SPLITS},
                definition=_definition(item.task),
            )
            for item in prepared.loaded.data
        },
        model=identify_model(prepared.config.model, prepared.family, prepared.tasks),
    )


def check_identity(before: Identity | None, now: Identity, path: Path) -> None:
    """Refuses to continue with other rows, tasks or another base model.

    `before` is None if an older version began the folder.

    Raises:
        RunError: Something changed; the message names it all.
    """
    if before is None:
        warnings.warn(
            f"{path} was started by a version of peml that kept no checksums: rows, tasks and base "
            "model can only be compared by their counts",
            stacklevel=2,
        )
        return
    changed = list(_changes(before, now))
    if changed:
        raise RunError(
            f"the run in {path} was started with other inputs: {'; '.join(changed)}",
            allowed="the rows, tasks and base model of its start",
            action="restore them, or choose another --output; nothing was changed",
        )


def _definition(task: Task) -> dict[str, str]:
    """A checksum of each field that isn't at its default, so that new fields change nothing."""
    fields = task.model_dump(mode="json", exclude=_NOT_THE_MEANING, exclude_defaults=True)
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        for name, value in fields.items()
    }


def _changes(before: Identity, now: Identity) -> Iterator[str]:
    old, new = before.tasks, now.tasks
    yield from (f"task {name} is gone" for name in old if name not in new)
    yield from (f"task {name} is new" for name in new if name not in old)
    for name in (name for name in old if name in new):
        rows = _differing(old[name].rows, new[name].rows)
        if rows:
            splits = "split" if len(rows) == 1 else "splits"
            yield f"the rows of task {name}'s {' and '.join(rows)} {splits} changed"
        fields = _differing(old[name].definition, new[name].definition)
        if fields:
            yield f"task {name}'s definition changed: {', '.join(fields)}"
    if list(old) != list(new) and old.keys() == new.keys():
        yield "the order of the tasks changed"
    for part in _differing(before.model, now.model):
        yield f"the base model's {part} changed"


def _differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]
