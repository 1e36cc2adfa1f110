"""A service of a tiny model on a free port, in a thread of the test's process."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch
import uvicorn

from peml.serving.predictor import Predictor
from peml.serving.service.app import Service
from peml.serving.service.engine import Engine
from peml.serving.service.gate import AccessLog
from peml.serving.service.keys import Keys
from peml.serving.service.limits import Limits
from tests.models.tasks import Row, tiny_task_model
from tests.tasks.examples import choice, generation, score, sentiment

TASKS = (
    sentiment(labels=["bad", "good", "mixed"]),
    score(),
    choice(),
    sentiment(
        name="deep",
        columns={"inputs": ["text.first"], "extra": ["hint"], "label": "label"},
        template="{{ hint }}",
    ),
)
WRITES = (*TASKS[:3], generation(stop=["k"]), generation(name="longer", max_new_tokens=9))
ROWS: tuple[tuple[str, Row], ...] = (
    ("mood", {"sentence": "the film was good"}),
    ("ending", {"start": "a man", "options": ["yes", "the red ball is in the box", "no"]}),
    ("closeness", {"first": "a dog", "second": "the lazy fox and the dog"}),
    ("mood", {"sentence": "bad"}),
    ("ending", {"start": "where is the ball ?", "options": ["no", "a dog"]}),
)


@dataclass
class Live:
    """A running service.

    Attributes:
        url: Where it is.
        service: Its parts.
        log: What it logged.
        client: Sends to it.
        server: Runs it.
    """

    url: str
    service: Service
    log: io.StringIO
    client: httpx.Client
    server: uvicorn.Server

    def post(self, body: Any, path: str = "/v1/predict", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            path, content=content, headers={"Content-Type": "application/json", **headers}
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def predictor_of(base: str, tasks: Any = TASKS, **config: Any) -> Predictor:
    model = tiny_task_model(base, tasks, **config).eval()
    generator = torch.Generator().manual_seed(2)
    if model.heads is not None:
        with torch.no_grad():
            for parameter in model.heads.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Predictor(model)


@contextmanager
def living(
    predictor: Predictor,
    limits: Limits | None = None,
    keys: Keys | None = None,
    made: Callable[[Predictor], Engine] = Engine,
) -> Iterator[Live]:
    log = io.StringIO()
    service = Service(made(predictor), "tiny", limits or Limits(), keys, AccessLog(log))
    at = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        service, access_log=False, log_level="critical", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    url = f"http://127.0.0.1:{at.getsockname()[1]}"
    until(lambda: server.started)
    try:
        with httpx.Client(base_url=url, timeout=20) as client:
            yield Live(url, service, log, client, server)
    finally:
        server.should_exit = True
        thread.join()


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


class Held:
    """Holds the model thread at its next batch until it is let go."""

    def __init__(self, service: Service, monkeypatch: Any) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.batches: list[int] = []
        answer = service.batcher._compute

        def slowly(work: Any) -> Any:
            self.batches.append(len(work))
            self.begun.set()
            assert self.released.wait(20)
            return answer(work)

        monkeypatch.setattr(service.batcher, "_compute", slowly)
