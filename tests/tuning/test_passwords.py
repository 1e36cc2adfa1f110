"""A database's password is in no message, file or log, however its URL is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy.exc
from rich.console import Console

from peml.config.loading import validate_config
from peml.errors import ConfigError, PemlError, RunError, without_passwords
from peml.tuning.folder import StudyFolder
from peml.tuning.settings import StorageSettings
from peml.tuning.storage import Patience, open_storage, shown_url
from tests.tuning.studies import made_up

URLS = [
    "postgresql+psycopg://me:hunter2@host/studies",
    "postgresql://:hunter2@host/studies",
    "postgresql://me%3Ahunter2@host/studies",
    "postgresql://me@host/studies?password=hunter2&sslmode=require",
    "postgresql://me@host/studies?sslmode=require&sslpassword=hunter2",
    "postgresql://me@host/studies?pass%77ord=hunter2",
    "postgresql://me@host/studies?options=hunter2",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhunter2",
    "snowflake://me:hunter2@account/studies",
    "postgresql://me:at@hunter2@host/studies",
    "postgresql://me:sl/hunter2@host/studies",
    "postgresql://me:ask?hunter2@host/studies",
    "postgresql://me:a b hunter2@host/studies",
    "postgresql://me:a'hunter2@host/studies",
    "postgresql://me:x://hunter2@host/studies",
    "postgresql://me:hunter2#host/studies",
    "postgresql://me:hunter2 host/studies",
    "postgresql://me@host:hunter2/studies",
    "postgresql://host/studies;password=hunter2",
    "postgresql:/me:hunter2@host/studies",
    "postgresql//me:hunter2@host/studies",
    "postgresql:me:hunter2@host/studies",
    "nosuch+driver://me:hunter2@host/studies",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_no_text_and_no_file(url: str, tmp_path: Path) -> None:
    assert "hunter2" not in shown_url(url)
    assert "hunter2" not in without_passwords(f"storage.url {url!r} is wrong")
    assert "hunter2" not in str(PemlError("wrong", allowed=url, action=f"try {url}"))
    config = made_up(storage={"url": url})
    assert "hunter2" not in f"{config!r}{config}"
    folder = StudyFolder(tmp_path)
    folder.create(config)
    assert folder.holds(config)
    assert "hunter2" not in (tmp_path / "study.yaml").read_text()


@pytest.mark.parametrize("url", [url for url in URLS if not url.startswith("postgresql+psycopg:")])
def test_a_url_that_cannot_be_used_is_refused_without_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_database(*_: object, **__: object) -> None:
        raise sqlalchemy.exc.ArgumentError(f"can't parse {url}")

    monkeypatch.setattr("peml.tuning.storage._open_database", no_database)
    with pytest.raises(ConfigError, match=r"storage\.url is no database's URL") as caught:
        open_storage(StorageSettings(url=url), tmp_path / "journal")
    assert "hunter2" not in str(caught.value)


def test_what_a_driver_says_is_shown_without_it() -> None:
    url = "postgresql://me:hunter2@host/studies?sslpassword=opensesame&sslmode=require"

    def away() -> None:
        said = Exception("no pg_hba.conf entry for me, hunter2, opensesame; refused")
        raise sqlalchemy.exc.OperationalError("x", {}, said)

    with pytest.raises(RunError, match="refused") as caught:
        Patience(StorageSettings(url=url, wait=0), Console(quiet=True))(away)
    assert "me:***@host/studies" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "opensesame" not in str(caught.value)


def test_a_value_of_the_wrong_kind_is_shown_without_it() -> None:
    for value in (["postgresql://me:hunter2@host/x"], {"a": "postgresql://me:hunter2@host/x"}):
        with pytest.raises(ConfigError, match="url") as caught:
            validate_config(StorageSettings, {"url": value}, "study.yaml", "correct it")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://me:***@nowhere/studies is away",
        "postgresql://me@host:5432/studies?sslmode=require",
        "postgresql://me:***@[::1]:5432/studies.",
        "was 'postgresql://me:***@h/a' and is 'postgresql://me:***@h/b'",
        "https://example.org/a?b=c was written by me@example.org",
        "sqlite:////a b/c@d.db",
        "rows 1:2 hold 'a: b@c'",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_passwords(text) == text
