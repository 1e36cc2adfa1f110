"""`peml serve` as a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from peml.serving.service.limits import Limits
from peml.serving.service.server import check_exposure
from tests.cli.commands import peml as command
from tests.export.trained import run_of


def test_it_answers_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    run = run_of("bert", "lora+prefix", tmp_path)
    words = ["-m", "peml", "serve", str(run), "--port", "0", "--max-rows", "2"]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            answer, refused = _ask(process)
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=20)
        finally:
            process.kill()  # else a failure above would wait for it for ever
    assert len(answer.json()["predictions"]) == 2
    assert refused.status_code == 413
    assert process.returncode == 0
    assert error == ""
    assert [json.loads(line)["status"] for line in out.splitlines()] == [200, 413]


def _ask(process: subprocess.Popen[str]) -> tuple[httpx.Response, httpx.Response]:
    """The answers to a good request and to one with too many rows."""
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"run-bert-lora\+prefix: 3 tasks at (http://127\.0\.0\.1:\d+)", said)
    assert found, said
    with httpx.Client(base_url=found[1], timeout=20) as client:
        body = {"task": "mood", "rows": [{"text": "the film was good"}] * 2}
        answer = client.post("/v1/predict", json=body)
        body["rows"] = [{"text": "bad"}] * 3
        return answer, client.post("/v1/predict", json=body)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_are_served_with_a_key_only(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = command(capsys, "serve", tmp_path, "--host", host)
    assert said.code == 2
    assert "--api-key-file" in said.error
    check_exposure(host, None, insecure=True)
    check_exposure(host, tmp_path / "keys", insecure=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_exposure(host, None, insecure=False)


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = command(capsys, "serve", tmp_path, "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "can't listen" in said.error


@pytest.mark.parametrize("words", [("serve", "--port", 0), ("predict", "--task", "mood")])
def test_few_compiled_kernels_are_kept(
    words: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else memory grows with every new shape of a batch."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "a dog"}\n')
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "9")
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    files = ("-i", rows, "-o", tmp_path / "out.jsonl") if words[0] == "predict" else ()
    said = command(capsys, words[0], tmp_path, *words[1:], *files)
    assert said.code == 2  # there is no model
    assert os.environ["LRU_CACHE_CAPACITY"] == "16"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "9"  # as the user says


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name)
    )
    said = command(capsys, "serve", tmp_path)
    assert said.code == 2
    assert "needs fastapi" in said.error
    assert "pip install 'peml[serve]'" in said.error


def test_the_help_tells_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(command(capsys, "serve", "--help").out.split())
    for name, field in Limits.model_fields.items():
        assert f"default: {field.default:g}" in told or str(field.default) in told, name
