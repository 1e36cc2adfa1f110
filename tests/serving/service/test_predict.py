"""What the service answers, against the predictor."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from peml.serving.predictor import Predictor
from peml.serving.service import engine as engine_module
from peml.serving.service.app import Service
from peml.serving.service.engine import Engine
from peml.serving.service.gate import AccessLog
from peml.serving.service.limits import Limits
from peml.serving.service.reading import RowReader
from tests.serving.service.live import ROWS, WRITES, Held, Live, living, predictor_of, until


@pytest.fixture(scope="module", params=["bert", "llama", "t5"])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    tasks: Any = (*WRITES[:3],) if request.param == "bert" else WRITES
    with living(predictor_of(request.param, tasks)) as running:
        yield running


@pytest.fixture(scope="module")
def encoder() -> Iterator[Live]:
    with living(predictor_of("bert"), Limits(rows=8, queue=4)) as running:
        yield running


def _said(predictor: Predictor, task: str, row: dict[str, Any]) -> dict[str, Any]:
    answer = predictor.predict(task, [row])[0]
    return {"prediction": answer.value, "scores": answer.scores}


def _agree(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    if isinstance(wanted["prediction"], float):
        assert found["prediction"] == pytest.approx(wanted["prediction"], abs=1e-4)
    else:
        assert found["prediction"] == wanted["prediction"]
    assert list(found["scores"]) == list(wanted["scores"])
    assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-4)


def test_rows_of_several_tasks_are_answered_in_order_as_predict_does(live: Live) -> None:
    predictor = live.service.engine.predictor
    rows = list(ROWS)
    if any(task.type.generates for task in predictor.tasks):
        rows[1:1] = [("rewrite", {"text": "the fox"}), ("longer", {"text": "a man and a dog"})]
    answer = live.post({"rows": [{"task": task, **row} for task, row in rows]})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert len(found) == len(rows)
    for each, (task, row) in zip(found, rows, strict=True):
        _agree(each, _said(predictor, task, row))
    one_task = live.post({"task": "mood", "rows": [row for task, row in ROWS if task == "mood"]})
    named = [each for each, (task, _) in zip(found, rows, strict=True) if task == "mood"]
    for each, wanted in zip(one_task.json()["predictions"], named, strict=True):
        _agree(each, wanted)


def test_a_row_is_read_whatever_stands_beside_it(encoder: Live) -> None:
    rows = [{"text": {"first": "a dog"}, "hint": hint} for hint in (1, "1", "late", None)]
    body = json.dumps({"task": "deep", "rows": rows}).encode("utf-8-sig")
    together = encoder.post(body)
    assert together.status_code == 200, together.text
    for found, row in zip(together.json()["predictions"], rows, strict=True):
        _agree(found, _said(encoder.service.engine.predictor, "deep", row))


def test_no_rows_have_no_predictions_and_a_cut_row_says_so(encoder: Live) -> None:
    assert encoder.post({"rows": []}).json() == {"predictions": []}
    row = {"sentence": "good " * 100}
    long = encoder.post({"task": "mood", "rows": [row]}).json()
    predictor = encoder.service.engine.predictor
    cut = predictor.predict("mood", [row])[0].cut
    assert long["predictions"][0]["cut"] == cut > 0


def test_requests_of_different_tasks_share_a_batch(
    encoder: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(encoder.service, monkeypatch)
    with ThreadPoolExecutor(5) as clients:
        asked = [
            clients.submit(encoder.post, {"task": task, "rows": [row]}) for task, row in ROWS[:1]
        ]
        assert held.begun.wait(10)
        for task, row in ROWS[1:4]:
            asked.append(clients.submit(encoder.post, {"task": task, "rows": [row]}))
        until(lambda: encoder.service.batcher.waiting == 3)
        held.released.set()
        assert [each.result().status_code for each in asked] == [200] * 4
    assert held.batches == [1, 3]
    for each, (task, row) in zip(asked, ROWS, strict=False):
        wanted = _said(encoder.service.engine.predictor, task, row)
        _agree(each.result().json()["predictions"][0], wanted)


@pytest.mark.parametrize(
    ("size", "in_use", "on"), [(10, False, "MainThread"), (10, True, "peml"), (9999, False, "peml")]
)
def test_short_bodies_are_read_at_once_while_the_tokenizer_is_free(
    size: int, in_use: bool, on: str
) -> None:
    engine = Engine(predictor_of("bert"))
    service = Service(engine, "tiny", Limits(), None, AccessLog(io.StringIO()))

    def read() -> str:
        return threading.current_thread().name

    async def ask() -> str:
        if not in_use:
            return await service.in_reader(size, read)
        held, released = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            released.wait(10)

        other = asyncio.to_thread(engine.reading, hold)
        waiting = asyncio.ensure_future(other)
        await asyncio.to_thread(held.wait, 10)
        asked = asyncio.ensure_future(service.in_reader(size, read))
        await asyncio.sleep(0.01)
        assert not asked.done()
        released.set()
        await waiting
        return await asked

    assert asyncio.run(ask()).startswith(on)


def test_an_encoders_batches_are_small_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with living(predictor_of("bert")) as live:
        held = Held(live.service, monkeypatch)
        row = {"sentence": "good " * 20}
        with ThreadPoolExecutor(2) as clients:
            asked = [
                clients.submit(live.post, {"task": "mood", "rows": [row] * 100}) for _ in range(2)
            ]
            held.released.set()
            assert [len(each.result().json()["predictions"]) for each in asked] == [100] * 2
        tokens = live.service.reader.read({"task": "mood", "rows": [row]})[0].tokens
    assert max(held.batches) == 1024 // tokens
    assert sum(held.batches) == 200
    assert Engine(predictor_of("llama")).tokens > 1024


def test_free_memory_is_given_back_every_few_thousand_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(engine_module, "_find_trim", lambda: calls.append)
    engine = Engine(predictor_of("bert"))
    work = RowReader(engine.predictor, Limits()).read({"task": "mood", "rows": [{"sentence": "a"}]})
    work[0].tokens = 1000
    for _ in range(20):
        engine.answer(work)
    assert calls == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_allocator_takes_the_call() -> None:
    trim = engine_module._find_trim()
    assert trim is None or trim(0) in (0, 1)


def test_a_full_queue_is_refused_and_asks_to_come_back(
    encoder: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(encoder.service, monkeypatch)
    body = {"task": "mood", "rows": [{"sentence": "good"}]}
    with ThreadPoolExecutor(5) as clients:
        asked = [clients.submit(encoder.post, body)]
        assert held.begun.wait(10)
        asked += [clients.submit(encoder.post, body) for _ in range(4)]
        until(lambda: encoder.service.batcher.waiting == 4)
        assert encoder.client.get("/ready").status_code == 503
        full = encoder.post(body)
        held.released.set()
        assert [each.result().status_code for each in asked] == [200] * 5
    assert full.status_code == 429
    assert int(full.headers["Retry-After"]) > 0
    assert full.json()["error"]["type"] == "overloaded"
    assert encoder.client.get("/ready").status_code == 200


def test_a_client_that_hangs_up_leaves_the_queue(
    encoder: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(encoder.service, monkeypatch)
    body = {"task": "mood", "rows": [{"sentence": "good"}, {"sentence": "bad"}]}
    with ThreadPoolExecutor(5) as clients:
        first = clients.submit(encoder.post, body)
        assert held.begun.wait(10)
        with pytest.raises(Exception, match="timed out"):
            encoder.client.post("/v1/predict", json=body, timeout=0.3)
        until(lambda: encoder.service.batcher.waiting == 0)
        held.released.set()
        assert first.result().status_code == 200
    assert encoder.post(body).status_code == 200
    assert held.batches == [2, 2]  # those of the one that hung up were never computed
    until(lambda: any(line["status"] == 499 for line in encoder.lines()))


def test_what_takes_too_long_is_refused_and_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with living(predictor_of("bert"), Limits(timeout=0.2)) as live:
        held = Held(live.service, monkeypatch)
        answer = live.post({"task": "mood", "rows": [{"sentence": "good"}]})
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "timeout"
        held.released.set()
        until(lambda: live.service.batcher.waiting == 0)


def test_a_failing_batch_is_an_error_of_its_requests_only(
    encoder: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(work: Any) -> Any:
        raise RuntimeError("secret of a client")

    body = {"task": "mood", "rows": [{"sentence": "good"}]}
    with monkeypatch.context() as patch:
        patch.setattr(encoder.service.batcher, "_compute", fail)
        answer = encoder.post(body)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal"
    assert answer.headers["X-Request-Id"] in answer.json()["error"]["remedy"]
    assert encoder.post(body).status_code == 200
    assert any(line.get("error") == "RuntimeError" for line in encoder.lines())
    assert "secret of a client" not in encoder.log.getvalue() + answer.text


def test_tasks_health_metrics_and_description(live: Live) -> None:
    told = live.client.get("/v1/tasks").json()
    assert told["model"] == "tiny"
    mood, _, ending = told["tasks"][:3]
    assert (mood["name"], mood["columns"], mood["labels"]) == (
        "mood",
        ["sentence"],
        ["bad", "good"] + (["mixed"] if len(mood["labels"]) == 3 else []),
    )
    assert ending["columns"] == ["start", "options"]
    assert live.client.get("/health").json() == {"status": "ok"}
    assert live.client.get("/ready").json() == {"status": "ready"}
    live.post({"task": "mood", "rows": [{"sentence": "good"}]})
    metrics = live.client.get("/metrics").text
    assert 'peml_requests_total{route="/v1/predict",status="200"}' in metrics
    assert 'peml_rows_total{task="mood"}' in metrics
    assert 'peml_batch_rows_count{lane="rows"}' in metrics
    paths = live.client.get("/openapi.json").json()["paths"]
    asked = paths["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(asked["properties"]) == {"task", "rows"}


def test_work_that_has_begun_is_answered_before_the_service_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with living(predictor_of("bert")) as live, ThreadPoolExecutor(2) as clients:
        held = Held(live.service, monkeypatch)
        body = {"task": "mood", "rows": [{"sentence": "good"}]}
        asked = [clients.submit(live.post, body)]
        assert held.begun.wait(10)
        asked.append(clients.submit(live.post, body))
        until(lambda: live.service.batcher.waiting == 1)
        live.server.should_exit = True
        until(lambda: not live.server.servers or not live.server.servers[0].is_serving())
        held.released.set()
        assert [each.result().status_code for each in asked] == [200, 200]
        assert all(each.result().json()["predictions"] for each in asked)
        until(lambda: not live.service.batcher.alive)
