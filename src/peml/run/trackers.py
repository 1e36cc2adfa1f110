"""Experiment trackers that show a run's numbers while it trains; Accelerate talks to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from rich.console import Console

from peml.errors import ConfigError, RunError
from peml.records.record import FileRecord
from peml.training.settings import TrackingSettings

_PACKAGES = {"comet_ml": "comet-ml", "tensorboard": "tensorboardX"}


class TrackedRuns(FileRecord):
    """``trackers.json``: the id that a tracker gave the run, by tracker; sessions share it."""

    FILE: ClassVar[str] = "trackers.json"
    runs: dict[str, str]


@dataclass(frozen=True)
class _Service:
    """How a tracker is told which run it shows; `tracked` is its id, None for a new one."""

    arguments: Callable[[Path, int, str | None], dict[str, Any]]
    identify: Callable[[Any], str] | None = None
    keeps_config: bool = True


_SERVICES = {
    # Events of a killed session after its checkpoint are hidden: they will be shown again.
    "tensorboard": _Service(lambda folder, step, _: {"purge_step": step + 1}, keeps_config=False),
    "wandb": _Service(
        lambda folder, _, tracked: {
            "name": folder.name,
            "dir": str(folder),
            "id": tracked,
            "resume": "allow",
        },
        identify=lambda run: str(run.id),
    ),
    "mlflow": _Service(
        lambda folder, _, tracked: {"run_name": folder.name, "run_id": tracked},
        identify=lambda run: str(run.info.run_id),
    ),
    "trackio": _Service(lambda folder, _, __: {"name": folder.name}),
}
_OTHER = _Service(lambda *_: {})


def check_trackers(settings: TrackingSettings) -> None:
    """Refuses trackers whose package is not installed.

    Raises:
        ConfigError: One is not.
    """
    there = [str(name) for name in get_available_trackers()]
    for name in settings.log_with:
        if name not in there:
            package = _PACKAGES.get(name, name)
            raise ConfigError(
                f"tracking.log_with: {name} needs the package {package}, which is not installed "
                "or is one that this version of Accelerate doesn't know",
                allowed=f"{', '.join(sorted(there)) or 'none'} (installed here)",
                action=f"pip install {package}, or leave {name} out",
            )


@dataclass
class Trackers:
    """The open trackers of a run; one that fails while training is closed, with a warning."""

    console: Console
    trackers: list[GeneralTracker] = field(default_factory=list)

    def log(self, section: str, values: Mapping[str, float], step: int) -> None:
        """Shows numbers of a step, each named ``section/name``."""
        named = {f"{section}/{name}": value for name, value in values.items()}
        for tracker in [*self.trackers] if named else []:
            try:
                tracker.log(named, step=step)
            except Exception as error:  # each tracker has errors of its own
                self._give_up(tracker, error)

    def close(self) -> None:
        """Closes all."""
        for tracker in [*self.trackers]:
            try:
                tracker.finish()
            except Exception as error:  # each tracker has errors of its own
                self._give_up(tracker, error)

    def _give_up(self, tracker: GeneralTracker, error: Exception) -> None:
        self.trackers.remove(tracker)
        self.console.print(
            f"{tracker.name} failed and shows no more of this run ({error}); metrics.jsonl has "
            "all numbers",
            style="yellow",
            markup=False,
        )


@contextmanager
def open_trackers(
    settings: TrackingSettings,
    folder: Path,
    step: int,
    config: Mapping[str, Any],
    console: Console,
) -> Iterator[Trackers]:
    """Opens the trackers of a run whose first `step` steps are done.

    W&B and MLflow continue the run that an earlier session of this folder began.

    Args:
        settings: Which trackers, and the name of the project.
        folder: The run folder.
        step: The number of steps up to the last checkpoint.
        config: The run's config, which a tracker is shown once.
        console: Where a tracker that fails is named.

    Raises:
        RunError: A tracker can't be opened.
    """
    found = Trackers(console)
    before = TrackedRuns.find(folder)
    tracked = dict(before.runs) if before else {}
    try:
        for name in settings.log_with:
            found.trackers.append(_open(name, settings.project, folder, step, config, tracked))
        if tracked:
            TrackedRuns(runs=tracked).write(folder)
        yield found
    finally:
        found.close()


def _open(
    name: str,
    project: str,
    folder: Path,
    step: int,
    config: Mapping[str, Any],
    tracked: dict[str, str],
) -> GeneralTracker:
    service, kind = _SERVICES.get(name, _OTHER), LOGGER_TYPE_TO_CLASS[name]
    arguments = service.arguments(folder, step, tracked.get(name))
    place = [name, folder] if kind.requires_logging_directory else [project]
    try:
        tracker: GeneralTracker = kind(*place, **arguments)
        tracker.start()
        if service.keeps_config and name not in tracked:
            tracker.store_init_configuration(dict(_flat(config)))
    except Exception as error:  # each tracker has errors of its own
        raise RunError(
            f"tracking.log_with: {name} can't be opened: {error}",
            action=f"set {name} up as its documentation says (key, address, offline mode), or "
            "leave it out; the run folder can be continued then",
        ) from error
    if service.identify is not None:
        tracked[name] = service.identify(tracker.tracker)
    return tracker


def _flat(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; lists are written out as texts."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            plain = value is None or isinstance(value, (bool, int, float, str))
            yield f"{path}{key}", value if plain else str(value)
