"""Trackers: what they are shown, and what happens when one is missing or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import tracking
from rich.console import Console

import peml.run.trackers
from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.errors import ConfigError, PemlError, RunError
from peml.run.listener import RunStopped
from peml.run.pipeline import fit, plan
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e


class Service:
    """W&B, as far as runs use it; remembers what all sessions showed it."""

    name = "wandb"
    requires_logging_directory = False
    arguments: ClassVar[list[dict[str, Any]]] = []
    configs: ClassVar[list[dict[str, Any]]] = []
    shown: ClassVar[list[tuple[int | None, dict[str, Any]]]] = []
    finished: ClassVar[list[str]] = []
    broken: ClassVar[set[str]] = set()

    def __init__(self, project: str, **arguments: Any) -> None:
        self.arguments.append({"project": project, **arguments})
        self.id = arguments["id"] or "id-1"

    def start(self) -> None:
        if "start" in self.broken:
            raise ConnectionError("no route to host")

    @property
    def tracker(self) -> Service:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.configs.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if "log" in self.broken:
            raise ConnectionError("no route to host")
        self.shown.append((step, values))

    def finish(self) -> None:
        self.finished.append(self.id)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    """A tracker in the place of W&B, which needs an account."""
    for memory in ("arguments", "configs", "shown", "finished"):
        monkeypatch.setattr(Service, memory, [])
    monkeypatch.setattr(Service, "broken", set())
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Service)
    monkeypatch.setattr(peml.run.trackers, "get_available_trackers", lambda: ["wandb"])
    return Service


@pytest.fixture
def config(toys: Path) -> RunConfig:
    training = {"epochs": 1, "log_every": 2, "evaluate_every": 3}
    path = toy_config(toys, method="lora", training=training)
    return load_config(path, ["tracking.log_with=[wandb]", "tracking.project=mine"])


def test_a_tracker_is_shown_the_config_and_all_numbers(
    service: type[Service], config: RunConfig, tmp_path: Path
) -> None:
    run = fit(config, tmp_path / "first")
    assert service.arguments[0]["project"] == "mine"
    assert service.arguments[0]["name"] == "first"
    assert service.configs[0]["method.name"] == "lora"
    named = {name for _, values in service.shown for name in values}
    assert {"train/loss", "learning_rate/lora", "development/mean"} <= named
    reported = {f"reported/{name}": task.value for name, task in run.results.tasks.items()}
    assert service.shown[-1] == (run.results.cost.steps["train"], reported)
    assert service.finished == ["id-1"]


def test_a_resumed_run_goes_on_in_the_same_run_of_the_tracker(
    service: type[Service], config: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda _: True)
    fit(config, tmp_path / "run")
    assert [each["id"] for each in service.arguments] == [None, "id-1"]
    assert len(service.configs) == 1
    assert service.finished == ["id-1", "id-1"]


def test_other_trackers_may_show_a_resumed_run(
    service: type[Service], config: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda _: True)
    none = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"log_with": ()})}
    )
    fit(none, tmp_path / "run")
    assert len(service.arguments) == 1


def test_a_tracker_that_fails_while_training_harms_nothing(
    service: type[Service], config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(config, tmp_path / "whole")
    service.broken.add("log")
    run = fit(config, tmp_path / "run", Console(width=200))
    assert run.results.tasks == whole.results.tasks
    assert capsys.readouterr().out.count("wandb failed and shows no more of this run") == 1


def test_a_tracker_that_cant_be_opened_is_named(
    service: type[Service], config: RunConfig, tmp_path: Path
) -> None:
    service.broken.add("start")
    with pytest.raises(
        RunError, match=r"(?s)wandb can't be opened: no route to host.*leave it out"
    ):
        fit(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/*"))
    service.broken.clear()
    fit(config, tmp_path / "run")


def test_a_missing_package_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peml.run.trackers, "get_available_trackers", lambda: ["tensorboard"])
    for start in (plan, lambda config: fit(config, tmp_path / "run")):
        with pytest.raises(ConfigError, match=r"(?s)needs the package wandb.*pip install wandb"):
            start(config)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_unknown_tracker_is_refused(toys: Path) -> None:
    with pytest.raises(PemlError, match="log_with") as refused:
        load_config(toy_config(toys, method="lora"), ["tracking.log_with=[wandbb]"])
    assert "wandb" in str(refused.value)
