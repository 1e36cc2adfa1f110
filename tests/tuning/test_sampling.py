"""What decides the next trial, and that it does not depend on the day."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from rich.console import Console

from peml.records.study import TrialRecord
from peml.tuning.ledger import Ledger
from peml.tuning.sampling import build_pruner, build_sampler
from peml.tuning.settings import PrunerSettings, SamplerSettings, StorageSettings, StudyConfig
from peml.tuning.space import Parameter
from peml.tuning.storage import Patience
from tests.tuning.studies import RATE, made_up

SPENT: dict[str, Any] = {"seconds": 1.0, "tokens": 100, "parameters": 10}


def ledger(config: StudyConfig, folder: Path) -> Ledger:
    patience = Patience(StorageSettings(), Console(quiet=True))
    return Ledger(config, folder / "journal", "me", patience)


def test_tpe_is_given_everything_that_optunas_versions_differ_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("peml.tuning.sampling.TPESampler", lambda **kwargs: given.update(kwargs))
    build_sampler(SamplerSettings(), {}, 0)
    assert given.pop("seed") != 0
    good = given.pop("gamma")
    assert [good(trials) for trials in (1, 8, 12, 1000)] == [1, 2, 3, 25]
    assert given == {
        "n_startup_trials": 10,
        "n_ei_candidates": 24,
        "multivariate": True,
        "group": False,
        "constant_liar": True,
    }
    build_sampler(SamplerSettings(multivariate=False, constant_liar=False), {}, 0)
    assert not given["multivariate"]
    assert not given["constant_liar"]


def test_no_sampler_warns_of_what_optuna_will_drop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in (SamplerSettings(), SamplerSettings(name="random")):
            build_sampler(settings, {}, 0)


def test_each_trial_has_draws_of_its_own() -> None:
    seeds = {
        build_sampler(SamplerSettings(seed=seed), {}, number)._rng.rng.randint(2**30)  # type: ignore[attr-defined]
        for seed in (0, 1)
        for number in range(4)
    }
    assert len(seeds) == 8


def test_hyperband_counts_in_percent_of_a_run() -> None:
    pruner = build_pruner(PrunerSettings(name="hyperband", reduction=3, least=0.1))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trial(optuna.trial.create_trial(value=0.5, intermediate_values={100: 0.5}))
    trial = study.ask()
    trial.report(0.1, 9)
    assert not trial.should_prune()
    assert pruner._n_brackets == 3  # type: ignore[attr-defined]


def test_the_same_study_draws_the_same_trials_whatever_happened_between(tmp_path: Path) -> None:
    config = made_up(sampler={"startup": 2})

    def draw(folder: Path, *, reopened: bool) -> list[dict[str, Any]]:
        folder.mkdir()
        book, drawn = ledger(config, folder), []
        for _ in range(8):
            book = ledger(config, folder) if reopened else book
            trial = book.begin()
            assert trial is not None
            drawn.append(trial.values)
            book.settle(
                TrialRecord(
                    number=trial.number,
                    state="finished",
                    objectives=[-abs(np.log10(trial.values[RATE]) + 2)],
                    **SPENT,
                ),
                Path(),
            )
        assert book.begin() is None
        return drawn

    straight = draw(tmp_path / "straight", reopened=False)
    assert draw(tmp_path / "reopened", reopened=True) == straight
    assert len({trial[RATE] for trial in straight}) == 8


@pytest.mark.parametrize("name", ["random", "tpe", "grid"])
@pytest.mark.parametrize("done", [1, 2])
def test_a_kill_between_two_draws_changes_neither(tmp_path: Path, name: str, done: int) -> None:
    space = {
        "method.lora.r": {"low": 2, "high": 64},
        "training.clip": {"low": 0.5, "high": 8.0, "step": 0.5},
        "training.log_every": {"low": 2, "high": 64},
    }
    config = made_up(space=space, sampler={"name": name, "startup": 2}, budget={"trials": 5})

    def draw(folder: Path, *, killed: bool) -> list[dict[str, Any]]:
        folder.mkdir()
        book, drawn = ledger(config, folder), []
        for _ in range(5):
            with pytest.MonkeyPatch.context() as patch:
                if killed:
                    patch.setattr(Parameter, "suggest", _dying_after(done))
                with suppress(KeyboardInterrupt):
                    book.begin()
            [trial] = ledger(config, folder).unfinished()
            drawn.append(trial.values)
            score = float(trial.values["training.clip"])
            book.settle(
                TrialRecord(number=trial.number, state="finished", objectives=[score], **SPENT),
                Path(),
            )
        return drawn

    whole = draw(tmp_path / "whole", killed=False)
    assert draw(tmp_path / "killed", killed=True) == whole
    for path in space:
        assert len({trial[path] for trial in whole}) > 1


def _dying_after(done: int) -> Callable[..., Any]:
    suggest, calls = Parameter.suggest, 0

    def suggest_or_die(self: Parameter, trial: optuna.Trial, path: str) -> Any:
        nonlocal calls
        calls += 1
        if calls > done:
            raise KeyboardInterrupt
        return suggest(self, trial, path)

    return suggest_or_die


def test_the_order_in_which_the_space_is_written_does_not_matter(tmp_path: Path) -> None:
    config = made_up()
    turned = made_up(space=dict(reversed(config.definition()["space"].items())))
    drawn = []
    for number, one in enumerate((config, turned)):
        (tmp_path / str(number)).mkdir()
        drawn.append(ledger(one, tmp_path / str(number)).begin())
    assert drawn[0] == drawn[1]


def test_tpe_learns_where_random_search_does_not(tmp_path: Path) -> None:
    def late_distance(name: str, seed: int) -> float:
        folder = tmp_path / f"{name}{seed}"
        folder.mkdir()
        config = made_up(budget={"trials": 30}, sampler={"name": name, "seed": seed})
        book, far = ledger(config, folder), []
        while trial := book.begin():
            far.append(abs(np.log10(trial.values[RATE]) + 2))
            book.settle(
                TrialRecord(number=trial.number, state="finished", objectives=[-far[-1]], **SPENT),
                Path(),
            )
        return float(np.mean(far[15:]))

    tpe, random = (
        np.mean([late_distance(name, seed) for seed in range(3)]) for name in ("tpe", "random")
    )
    assert tpe < 0.6 * random


def test_a_grid_tries_every_combination_once(tmp_path: Path) -> None:
    space = {"training.epochs": [1, 2, 3], "training.clip": {"low": 0.5, "high": 1.5, "step": 0.5}}
    config = made_up(space=space, sampler={"name": "grid"}, budget={"trials": 20})
    book, drawn = ledger(config, tmp_path), []
    while trial := book.begin():
        drawn.append(tuple(trial.values.values()))
        book.settle(
            TrialRecord(number=trial.number, state="finished", objectives=[0.5], **SPENT), Path()
        )
    assert sorted(drawn) == [(e, c) for e in (1, 2, 3) for c in (0.5, 1.0, 1.5)]


def test_the_parameters_of_tpe_are_known_to_this_version_of_optuna() -> None:
    assert isinstance(build_sampler(SamplerSettings(), {}, 0), TPESampler)
