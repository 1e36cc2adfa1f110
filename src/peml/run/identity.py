"""Checksums of a run's inputs: rows, definitions of tasks, base model.

A run can only be continued with the same inputs. Counts don't suffice: swapped labels, another
order of labels or replaced weights leave every count the same.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from peml.config.model import RunConfig
from peml.data.sources import LoadedTasks
from peml.errors import PemlError, RunError
from peml.models import Family, ModelSettings
from peml.models.loading import identify_model
from peml.prefix.genotype import Genotype
from peml.records.plan import Identity, TaskIdentity
from peml.run.preparation import Prepared, load_inputs
from peml.tasks import Task

_SPLITS = ("train", "development", "reported")
# Ignored: the name is the key, rows are compared themselves, and a description has no effect.
_NOT_THE_MEANING = {"name", "source", "description"}


def identify(prepared: Prepared) -> Identity:
    """Checksums of a run's rows, tasks and base model."""
    return _identify(prepared.config.model, prepared.family, prepared.loaded)


def identify_run(prepared: Prepared) -> Identity:
    """Like `identify`, with the file that the method reads its network from."""
    return identify(prepared).model_copy(update={"files": _files(prepared.config)})


def _files(config: RunConfig) -> dict[str, str]:
    path = getattr(getattr(config.method, "search", None), "genotype", None)
    if path is None:
        return {}
    network = Genotype.load(path).model_dump_json(exclude={"found_by"})
    return {"method.search.genotype": hashlib.sha256(network.encode()).hexdigest()}


def _identify(settings: ModelSettings, family: Family, loaded: LoadedTasks) -> Identity:
    return Identity(
        tasks={
            item.task.name: TaskIdentity(
                rows={split: getattr(item, split).checksum()[:32] for split in _SPLITS},
                definition=_definition(item.task),
            )
            for item in loaded.data
        },
        model=identify_model(settings, family, [item.task for item in loaded.data]),
    )


def check_finished(before: Identity, config: RunConfig, path: Path) -> None:
    """Refuses finished work, called again, if its inputs changed: its results are of the old ones.

    Warns if the inputs can't be read any more.

    Raises:
        RunError: See `check_identity`.
    """
    try:
        now = _identify(config.model, *load_inputs(config))
        now = now.model_copy(update={"files": _files(config)})
    except PemlError as error:
        warnings.warn(
            f"{path} is finished, but whether its data and base model are still those of its "
            f"results can't be checked: {error.problem}",
            stacklevel=2,
        )
        return
    check_identity(before, now, path)


def check_identity(before: Identity, now: Identity, path: Path) -> None:
    """Refuses to continue with other rows, tasks or another base model.

    Raises:
        RunError: Something changed; the message names it all.
    """
    changed = list(_changes(before, now))
    if changed:
        raise RunError(
            f"the run in {path} was started with other inputs: {'; '.join(changed)}",
            allowed="the rows, tasks, files and base model of its start",
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
    for setting, checksum in before.files.items():
        if now.files.get(setting, checksum) != checksum:
            yield f"the file of {setting} changed"


def _differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]
