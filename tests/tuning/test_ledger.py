"""Trials in the storage: each exactly once, whoever dies, and nobody takes another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from rich.console import Console

from peml.errors import RunError
from peml.records.study import TrialRecord
from peml.tuning.ledger import Ledger
from peml.tuning.settings import StorageSettings, StudyConfig
from peml.tuning.storage import Patience
from tests.tuning.studies import RATE, made_up

SPENT: dict[str, Any] = {"seconds": 2.0, "tokens": 100, "parameters": 10}
Shared = Callable[..., StudyConfig]


def open_ledger(config: StudyConfig, folder: Path, driver: str = "me") -> Ledger:
    return Ledger(config, folder / "journal", driver, Patience(config.storage, Console(quiet=True)))


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    return lambda **sections: made_up(storage={"url": url, "wait": 5}, **sections)


def test_a_trial_that_was_running_is_taken_up_again_with_its_number_and_values(
    tmp_path: Path,
) -> None:
    config = made_up()
    first = open_ledger(config, tmp_path)
    begun = [first.begin() for _ in range(3)]
    assert begun[1] is not None
    first.settle(
        TrialRecord(number=begun[1].number, state="finished", objectives=[0.5], **SPENT), Path()
    )
    again = open_ledger(config, tmp_path)
    assert again.unfinished() == [begun[0], begun[2]]
    assert [row.state for row in again.rows()] == ["running", "finished", "running"]
    ended = again.rows()[1]
    assert {name: getattr(ended, name) for name in SPENT} == SPENT


def test_drivers_on_one_database_leave_each_others_trials_alone(
    shared: Shared, tmp_path: Path
) -> None:
    config = shared(budget={"trials": 4})
    one, two = (open_ledger(config, tmp_path, name) for name in ("one", "two"))
    mine = [one.begin(), one.begin()]
    theirs = [two.begin(), two.begin()]
    assert one.begin() is None
    assert two.begin() is None
    assert open_ledger(config, tmp_path, "one").unfinished() == mine
    assert open_ledger(config, tmp_path, "two").unfinished() == theirs
    assert {t.number for t in [*mine, *theirs] if t} == {0, 1, 2, 3}


def test_two_drivers_that_begin_at_once_do_not_exceed_the_budget(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared(budget={"trials": 1})
    one, two = (open_ledger(config, tmp_path, name) for name in ("one", "two"))
    trials, asked = two._trials, []

    def stale(*states: Any) -> list[Any]:
        asked.append(states)
        if len(asked) == 1:  # the count before the other driver's trial
            found = trials(*states)
            assert one.begin() is not None
            return found
        return trials(*states)

    monkeypatch.setattr(two, "_trials", stale)
    assert two.begin() is None
    assert [row.driver for row in two.rows()] == ["one"]
    assert two.unfinished() == []


def _lose_answer(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """The database does what it was told once, and the connection breaks before it says so."""
    original, calls = getattr(owner, name), []

    def broken(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(args)
        if len(calls) == 1:
            raise sqlalchemy.exc.OperationalError("x", {}, Exception("connection reset"))
        return result

    monkeypatch.setattr(owner, name, broken)


def test_an_answer_that_got_lost_begins_no_second_trial(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = open_ledger(shared(), tmp_path)
    _lose_answer(monkeypatch, book.study, "add_trial")
    trial = book.begin()
    assert trial is not None
    assert [row.values for row in book.rows()] == [trial.values]
    _lose_answer(monkeypatch, book.study, "tell")
    book.settle(
        TrialRecord(number=trial.number, state="finished", objectives=[0.25], **SPENT), Path()
    )
    assert [row.objectives for row in book.rows()] == [[0.25]]


def test_reports_can_be_repeated_and_prune_what_falls_behind(tmp_path: Path) -> None:
    config = made_up(pruner={"name": "hyperband", "least": 0.3}, budget={"trials": 40})
    book = open_ledger(config, tmp_path)
    stopped = []
    for place in range(20):
        trial = book.begin()
        assert trial is not None
        worse = 1 - place / 20
        if book.report(trial.number, 40, worse):
            stopped.append(trial.number)
            assert book.report(trial.number, 40, worse)
            assert open_ledger(config, tmp_path).report(trial.number, 40, worse)
            book.settle(TrialRecord(number=trial.number, state="pruned", **SPENT), Path())
        else:
            book.report(trial.number, 40, worse)
            assert not book.report(trial.number, 100, worse - 1)  # nothing would be saved
            book.settle(
                TrialRecord(number=trial.number, state="finished", objectives=[worse], **SPENT),
                Path(),
            )
    rows = book.rows()
    assert len(stopped) > 5
    assert [row.number for row in rows if row.state == "pruned"] == stopped
    pruned = rows[stopped[0]]
    assert pruned.reports == {40: pruned.objectives[0]}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"space": {RATE: {"low": 1e-4, "high": 1.0, "log": True}}}, f"space.{RATE}.high was 0.1"),
        ({"run": {"tasks": {"suite": "demo"}, "method": {"name": "lora"}}}, "run.method"),
        ({"sampler": {"seed": 1}}, "sampler.seed was 0 and is 1"),
        ({"objectives": ["mean", "tokens"]}, "objectives"),
    ],
)
def test_a_study_that_changed_is_refused(
    shared: Shared, tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    open_ledger(shared(), tmp_path).begin()
    with pytest.raises(RunError, match="another study 'made-up'") as caught:
        open_ledger(shared(**sections), tmp_path)
    assert words in str(caught.value)
    longer = open_ledger(shared(budget={"trials": 99}), tmp_path)
    assert len(longer.rows()) == 1


def test_a_study_that_something_else_made_is_refused(shared: Shared, tmp_path: Path) -> None:
    config = shared()
    other = optuna.create_study(study_name="made-up", storage=config.storage.url)
    other.optimize(lambda trial: 1.0, n_trials=1)
    with pytest.raises(RunError, match="not made by `peml tune`"):
        open_ledger(config, tmp_path)


def test_a_database_that_is_away_is_waited_for_and_then_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peml.tuning.storage._FIRST_PAUSE", 0.01)
    url = "postgresql+psycopg://me:secret@nowhere/studies"
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    tries: list[int] = []

    def away() -> None:
        tries.append(1)
        raise sqlalchemy.exc.OperationalError("x", {}, Exception("connection refused"))

    with pytest.raises(RunError, match=r"me:\*\*\*@nowhere/studies is away, and was for 0\.2"):
        Patience(StorageSettings(url=url, wait=0.2), console)(away)
    assert len(tries) > 2
    said = console.export_text()
    assert said.count("is away, waiting up to") == 1
    assert "connection refused" in said
    assert "secret" not in said
    with pytest.raises(ZeroDivisionError):  # what no waiting helps is not waited for
        Patience(StorageSettings(url=url), console)(lambda: 1 / 0)


def test_what_a_kill_left_behind_in_the_journal_is_mended(tmp_path: Path) -> None:
    book = open_ledger(made_up(), tmp_path)
    trial = book.begin()
    journal = tmp_path / "journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":5,"worker_i')
    (tmp_path / "journal.lock").symlink_to(journal)
    again = open_ledger(made_up(), tmp_path)
    assert again.unfinished() == [trial]
    assert again.begin() is not None
    assert journal.read_bytes().startswith(whole)
    assert len(open_ledger(made_up(), tmp_path).unfinished()) == 2


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "storage.url is no database's URL"),
        ("oracle9://me@host/x", "storage.url is no database's URL"),
        ("mysql+mysqldb://me@host/x", "is not installed"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=words):
        open_ledger(made_up(storage={"url": url}), tmp_path)
