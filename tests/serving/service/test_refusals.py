"""Bad input gets the right status, a field and a remedy, and the service goes on."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from peml.errors import ConfigError
from peml.serving.service.keys import Keys
from peml.serving.service.limits import Limits
from tests.serving.service.live import Live, living, predictor_of, until

GOOD = {"task": "mood", "rows": [{"sentence": "good"}]}
KEY = "a-key-of-enough-characters"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    limits = Limits(rows=4, tokens=300, body=4096, timeout=2)
    with living(predictor_of("bert"), limits) as running:
        yield running


def _refused(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"type", "message", "field", "allowed", "remedy"}
    assert error["type"] == kind
    assert error["message"]
    assert error["remedy"]
    return error


@pytest.mark.parametrize(
    ("body", "status", "kind", "field", "said"),
    [
        ({"task": "moood", "rows": []}, 404, "unknown_task", "task", "Did you mean 'mood'"),
        (
            {"rows": [{"task": "moood", "sentence": "x"}]},
            *(404, "unknown_task", "rows[0].task", "Did you mean 'mood'"),
        ),
        ({"rows": [{"sentence": "x"}]}, 422, "invalid_request", "rows[0].task", "no task"),
        ({"rows": [{"task": 3}]}, 422, "invalid_request", "rows[0].task", "a number"),
        ({"task": ["mood"], "rows": []}, 422, "invalid_request", "task", "a list"),
        (
            {"task": "mood", "rows": [{"sentence": "x"}, {"sentance": "x"}]},
            *(422, "invalid_request", "rows[1].sentance", "Did you mean 'sentence'"),
        ),
        (
            {"task": "mood", "rows": [{"sentence": "x", "label": 1}]},
            *(422, "invalid_request", "rows[0].label", "reads no column 'label'"),
        ),
        (
            {"task": "mood", "rows": [{"sentence": "x"}, {}]},
            *(422, "invalid_row", "rows[1].sentence", "sentence"),
        ),
        (
            {"task": "mood", "rows": [{"sentence": "x"}, {"sentence": 7.5}]},
            *(422, "invalid_row", "rows[1].sentence", "7.5"),
        ),
        (
            {"task": "mood", "rows": [{"sentence": None}]},
            *(422, "invalid_row", "rows[0].sentence", "null"),
        ),
        (
            {"task": "ending", "rows": [{"start": "a", "options": ["one"]}]},
            *(422, "invalid_row", "rows[0].options", "at least two"),
        ),
        (
            {"task": "deep", "rows": [{"text": {"first": "good"}}]},
            *(422, "invalid_row", "rows[0].hint", "hint"),
        ),
        ({"task": "mood", "rows": ["good"]}, 422, "invalid_request", "rows[0]", "a text"),
        ({"task": "mood"}, 422, "invalid_request", "rows", "missing"),
        ({"task": "mood", "rows": {}}, 422, "invalid_request", "rows", "an object"),
        ({"task": "mood", "row": []}, 422, "invalid_request", "row", "Did you mean 'rows'"),
        ([], 422, "invalid_request", None, "a list"),
        (
            {"task": "mood", "rows": [{"sentence": "x"}] * 5},
            *(413, "too_many_rows", "rows", "5 rows"),
        ),
        (
            {"task": "ending", "rows": [{"start": "good " * 60, "options": list("abcdefgh")}]},
            *(413, "too_many_tokens", "rows", "tokens"),
        ),
        (b"", 400, "invalid_json", None, "not JSON"),
        (b"{", 400, "invalid_json", None, "not JSON"),
        (b'{"task": "\xff"}', 400, "invalid_json", None, "byte 10"),
        (b'{"task": NaN}', 400, "invalid_json", None, "NaN"),
        (b'{"rows": [1e999]}', 400, "invalid_json", None, "not a finite number"),
        (b'{"task": "a", "task": "b"}', 400, "invalid_json", None, "twice"),
        (b'{"task": "\\ud800"}', 400, "invalid_json", None, "lone surrogate"),
        (b'{"\\ud800": 1}', 400, "invalid_json", None, "lone surrogate"),
        (b"9" * 4000, 400, "invalid_json", None, "64 bits"),
        (b"[" * 4000, 400, "invalid_json", None, "nested too deeply"),
        (b"[" * 30 + b"]" * 30, 400, "invalid_json", None, "nested too deeply"),
        (b"x" * 5000, 413, "body_too_large", None, "too large"),
    ],
)
def test_bad_bodies(
    live: Live, body: Any, status: int, kind: str, field: str | None, said: str
) -> None:
    error = _refused(live.post(body), status, kind)
    assert error["field"] == field
    assert said in error["message"] + str(error["allowed"])
    assert live.post(GOOD).status_code == 200


def test_a_body_without_its_length_is_cut_off_too(live: Live) -> None:
    headers = {"Content-Type": "application/json"}
    pieces = (b"x" * 1000 for _ in range(9))
    answer = live.client.post("/v1/predict", content=pieces, headers=headers)
    _refused(answer, 413, "body_too_large")


def test_a_slow_body_is_given_up(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in client.recv(4096)


def test_a_client_that_goes_while_it_sends_is_no_error(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    gone = sum(line["status"] == 499 for line in live.lines())
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
    until(lambda: sum(line["status"] == 499 for line in live.lines()) > gone)
    assert not any(line.get("event") == "error" for line in live.lines())


def test_other_paths_methods_and_types(live: Live) -> None:
    error = _refused(live.client.get("/v1/task"), 404, "not_found")
    assert "Did you mean '/v1/tasks'" in error["message"]
    error = _refused(live.client.get("/v1/predict"), 405, "not_allowed")
    assert error["allowed"] == "POST"
    _refused(live.client.post("/v1/predict", data={"task": "mood"}), 415, "unsupported_media_type")


def test_nothing_that_was_sent_reaches_the_log(live: Live) -> None:
    live.log.truncate(0)
    live.log.seek(0)
    marks = ["MARK-path", "MARK-header", "MARK-text", "MARK-task", "MARK-query", "MARK-column"]
    live.client.get("/MARK-path%0a%1b[31m?MARK-query=1", headers={"User-Agent": "MARK-header"})
    live.post({"task": "MARK-task\n", "rows": [{"MARK-column": "MARK-text"}]})
    live.post({"task": "mood", "rows": [{"MARK-column": "MARK-text\n\u001b"}]})
    live.post({"task": "mood", "rows": [{"sentence": "MARK-text"}]})
    until(lambda: len(live.log.getvalue().splitlines()) == 4)
    assert [line["status"] for line in live.lines()] == [404, 404, 422, 200]
    assert live.lines()[3].keys() >= {"time", "id", "method", "route", "status", "ms", "rows"}
    assert not [mark for mark in marks if mark in live.log.getvalue()]
    assert live.log.getvalue().isascii()


def test_mutilated_requests_never_bring_it_down(live: Live) -> None:
    draw = random.Random(4)
    sound = json.dumps(
        {"rows": [{"task": "mood", "sentence": "the dog"}, {"task": "ending", "options": ["a"]}]}
    ).encode()
    seen = set()
    for _ in range(150):
        body = bytearray(sound)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(body))
            piece = draw.choice([b"", b'"', b"[", b"{", b"\x00", b"\xc3", b"null", b"1e9", b"\\u"])
            body[place : place + draw.randint(0, 9)] = piece
        answer = live.post(bytes(body))
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 404, 413, 422), (bytes(body), answer.text)
        if answer.status_code != 200:
            assert set(answer.json()["error"]) >= {"message", "field", "remedy"}
    assert {400, 404, 422} <= seen
    assert live.post(GOOD).status_code == 200
    assert not any(line.get("event") == "error" for line in live.lines())


def test_only_a_known_key_opens(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nanother-key-of-some-length\n{KEY}\n")
    with living(predictor_of("bert"), keys=Keys.read(file)) as live:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            answer = live.post(GOOD, **header)
            assert _refused(answer, 401, "unauthorized")["field"] == "Authorization"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert live.client.get("/v1/tasks").status_code == 401
        assert live.client.get("/metrics").status_code == 401
        assert live.client.get("/other").status_code == 401
        assert live.client.get("/health").status_code == 200
        assert live.client.get("/ready").status_code == 200
        assert live.post(GOOD, Authorization=f"Bearer {KEY}").status_code == 200
        assert KEY not in live.log.getvalue()
        assert "wrong" not in live.log.getvalue()


@pytest.mark.parametrize(
    ("written", "said"), [("", "no key"), ("# none\n", "no key"), ("short\n", "key 1 is too short")]
)
def test_a_key_file_without_a_good_key_is_refused(tmp_path: Path, written: str, said: str) -> None:
    file = tmp_path / "keys"
    file.write_text(written)
    with pytest.raises(ConfigError, match=said) as caught:
        Keys.read(file)
    assert "short" not in caught.value.problem.replace("too short", "")
    with pytest.raises(ConfigError, match="can't be read"):
        Keys.read(tmp_path / "none")
