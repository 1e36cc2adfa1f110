"""Two `fit`, `tune` or `compare` at once on a new folder, either killed at any moment.

The folder can always be gone on with, and comes to what it comes to undisturbed, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.comparison.quick import comparison_file
from tests.e2e.toy import METHODS, Row, toy_config
from tests.e2e.two_at_once import Command, disturb
from tests.tuning.studies import study_file

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("unrendered")]

Commands = Callable[[str], Command]

_NAMES = ("fit", "tune", "compare")
_MOMENTS = 50
_BEFORE_LOCK = 3
"""Events until a process holds the lock: the folder made, the lock file opened, the lock taken."""
_TRAINING: Row = {"epochs": 1, "checkpoint_every": 3, "evaluate_every": 3}


def _fit(toys: Path) -> Path:
    rates = {"learning_rates": {"architecture": 0.05, "heads": 0.02}}
    lora = METHODS["lora"]["lora"] | {"dropout": 0.1}
    method = METHODS["peml"] | {"lora": lora}
    tasks = {"include": ["mood"]}
    return toy_config(toys, method=method, tasks=tasks, training=_TRAINING | rates)


def _run(toys: Path) -> Row:
    path = toy_config(toys, method="lora", tasks={"include": ["mood"]}, training=_TRAINING)
    run: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    return run


def _tune(toys: Path) -> Path:
    return study_file(toys, toys / "two.yaml", run=_run(toys), budget={"trials": 2})


def _compare(toys: Path) -> Path:
    run = {key: value for key, value in _run(toys).items() if key != "method"}
    path = toys / "compare.yaml"
    return comparison_file(toys, path, run=run, seeds=[0], execution={"kind": "inline"})


_CONFIGS = {"fit": _fit, "tune": _tune, "compare": _compare}


@pytest.fixture(scope="session")
def commands(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Each command carried out once, when first asked for."""
    known: dict[str, Command] = {}

    def command(name: str) -> Command:
        if name not in known:
            words = [name, str(_CONFIGS[name](toys)), "--output"]
            folder = tmp_path_factory.mktemp(name) / "run"
            known[name] = Command.carried_out(words, folder)
        return known[name]

    return command


def _stops(moment: int, events: int) -> tuple[int, int]:
    """Where the first process is stopped and where the second, moments spread over both lives.

    Mostly the first has the lock; in every fifth moment it has not, and the second takes it.
    """
    early = 1 + moment % (_BEFORE_LOCK + 1)
    late = _BEFORE_LOCK + 1 + moment * (events - _BEFORE_LOCK - 1) // (_MOMENTS - 1)
    return (min(early, _BEFORE_LOCK), late) if moment % 5 == 4 else (late, early)


_TELLING = [
    ("fit", ".lock", "config.yaml", True),  # neither has begun; the second takes over
    ("fit", "environment.json", "results.json", False),  # the second is refused
    ("tune", "driver.json", "trials/0000/results.json", False),
    ("tune", "study.yaml", ".lock", True),  # half begun; the second goes on
    ("compare", "matching.json", "cells/toy/lora-seed0/results.json", False),
]
"""Command, the files before which either process is stopped, whether the first is killed."""


@pytest.mark.parametrize(("name", "first", "second", "kill_first"), _TELLING)
def test_the_most_telling_moments(
    name: str, first: str, second: str, kill_first: bool, commands: Commands, tmp_path: Path
) -> None:
    command = commands(name)
    stops = command.before(first), command.before(second)
    disturb(command, tmp_path / "run", stops, kill_first=kill_first)


@pytest.mark.kill
@pytest.mark.parametrize("moment", range(_MOMENTS))
@pytest.mark.parametrize("name", _NAMES)
def test_either_may_be_killed_at_any_moment(
    name: str, moment: int, commands: Commands, tmp_path: Path
) -> None:
    command = commands(name)
    stops = _stops(moment, len(command.events))
    disturb(command, tmp_path / "run", stops, kill_first=moment % 2 == 0)
