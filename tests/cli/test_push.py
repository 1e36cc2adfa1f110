"""`peml push` against stand-ins of the hub."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from peml.serving import load
from tests.cli.commands import content, peml
from tests.e2e.fixtures import Runs

Capture = pytest.CaptureFixture[str]


class _Hub:
    """Keeps what would be uploaded."""

    repositories: dict[str, bool]
    files: dict[str, bytes]

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Any:
        assert exist_ok
        self.repositories = {name: private}
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

    def create_commit(self, name: str, operations: list[Any], commit_message: str) -> None:
        assert name in self.repositories
        assert commit_message
        self.files = {
            each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> _Hub:
    made = _Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Path:
    shutil.copytree(runs("encoder", "peml"), tmp_path / "run")
    return tmp_path / "run"


def test_what_is_uploaded_is_a_model_that_loads(
    run: Path, hub: _Hub, tmp_path: Path, capsys: Capture
) -> None:
    said = peml(capsys, "push", run, "me/demo")
    assert said.code == 0, said.error
    assert "https://huggingface.co/me/demo" in said.out
    assert "To fill:" in said.out
    assert hub.repositories == {"me/demo": True}
    assert {"README.md", "README-network.png", "manifest.json"} <= hub.files.keys()
    for name, value in hub.files.items():
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    row = [{"sentence": "the dog is good"}]
    answers = [load(each, "cpu").predict("mood", row) for each in (run, tmp_path / "downloaded")]
    assert answers[0] == answers[1]
    peml(capsys, "push", run / "model", "me/other", "--public")
    assert hub.repositories == {"me/other": False}


def test_a_dry_run_shows_all_and_changes_nothing(run: Path, hub: _Hub, capsys: Capture) -> None:
    (run / "model" / "README.md").unlink()  # as of a run of an older version
    before = content(run)
    said = peml(capsys, "push", run, "me/demo", "--dry-run")
    assert said.code == 0, said.error
    assert content(run) == before
    assert not hasattr(hub, "files")
    for name in ("peml.json", "heads.safetensors", "README.md", "## Tasks and scores"):
        assert name in said.out


def test_an_export_is_uploaded_as_it_was_written(
    runs: Runs, tmp_path: Path, hub: _Hub, capsys: Capture
) -> None:
    out = tmp_path / "out"
    said = peml(capsys, "export", runs("encoder", "lora"), out, "--format", "lora")
    assert said.code == 0, said.error
    said = peml(capsys, "push", out, "me/adapter")
    assert said.code == 0, said.error
    written = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert {"README.md", "manifest.json"} < hub.files.keys()
    assert hub.files == {name: path.read_bytes() for name, path in written.items()}
    del hub.files
    weights = next(out.rglob("adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    said = peml(capsys, "push", out, "me/adapter")
    assert said.code == 2
    assert "adapter_model.safetensors was cut short or altered" in said.error
    assert not hasattr(hub, "files")


def test_a_changed_model_is_not_uploaded(run: Path, hub: _Hub, capsys: Capture) -> None:
    with (run / "model" / "heads.safetensors").open("ab") as file:
        file.write(b"x")
    said = peml(capsys, "push", run, "me/demo")
    assert said.code == 2
    assert "heads.safetensors was cut short or altered" in said.error
    assert not hasattr(hub, "files")


def test_an_upload_that_breaks_off_is_no_traceback(
    run: Path, hub: _Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: Any, **__: Any) -> None:
        huggingface_hub.get_session().get("http://127.0.0.1:9/x")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "create_commit", broken_off)
    said = peml(capsys, "push", run, "me/demo")
    assert said.code == 2
    assert "can't upload to me/demo" in said.error


def test_names_that_are_none_are_refused(run: Path, hub: _Hub, capsys: Capture) -> None:
    said = peml(capsys, "push", run, "me/demo/model")
    assert said.code == 2
    assert "'me/demo/model' can't be a repository" in said.error


def test_exports_have_the_card_as_well(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs("encoder", "lora"), run)
    (run / "model" / "README.md").write_text("mine")
    assert peml(capsys, "export", run, tmp_path / "out", "--format", "lora").code == 0
    assert (tmp_path / "out" / "README-run.md").read_text() == "mine"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that refuses every token; the tokens it was sent."""
    tokens: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.append(self.headers.get("authorization", ""))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            text = json.dumps({"error": "Invalid credentials"}).encode()
            self.send_response(401)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    api = functools.partial(huggingface_hub.HfApi, endpoint=endpoint)
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    yield tokens
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_refusal_says_what_to_do_and_shows_no_token(
    run: Path, refusing: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    said = peml(capsys, "push", run, "me/demo")
    assert said.code == 2
    assert "can't upload to me/demo" in said.error
    assert "hf auth login" in said.error
    assert refusing == ["Bearer hf_verysecret"]
    assert "verysecret" not in said.out + said.error
