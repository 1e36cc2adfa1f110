"""The routes of the service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from peml.errors import PemlError, nearest
from peml.serving.predictor import Prediction
from peml.serving.service import schema
from peml.serving.service.answering import receive_body, unless_hung_up
from peml.serving.service.batcher import Batcher
from peml.serving.service.body import parse_object
from peml.serving.service.completions import Completions
from peml.serving.service.engine import Engine
from peml.serving.service.gate import AccessLog, Gate, Receive, Scope, Send
from peml.serving.service.keys import Keys
from peml.serving.service.limits import Limits
from peml.serving.service.metrics import Metrics
from peml.serving.service.pages import page
from peml.serving.service.reading import RowReader
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Work

_PREDICT = "/v1/predict"
_SHORT = 4096  # bytes of a body
_PUBLIC = ("/", "/docs", "/health", "/ready", "/openapi.json")
_Read = TypeVar("_Read")


class Service:
    """A model behind HTTP; an ASGI application.

    Args:
        engine: Answers batches.
        name: What the model is called.
        limits: Bounds on requests.
        keys: Accepted keys; None: none is needed.
        log: Receives a line per request.
    """

    def __init__(
        self, engine: Engine, name: str, limits: Limits, keys: Keys | None, log: AccessLog
    ) -> None:
        self.name = name
        self.limits = limits
        self.engine = engine
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(engine.answer, engine.tokens, limits, self.metrics.batch)
        self.reader = RowReader(engine.predictor, limits)
        # One thread: a tokenizer has state while it cuts a text.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="peml-reader")
        self.routes = FastAPI(
            title=f"PEML: {name}",
            version="1",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        self._add_routes()
        Completions(self).add_routes()
        self.routes.add_exception_handler(HTTPException, _refuse)
        passed: dict[str, Any] = {
            "routes": [getattr(route, "path", "") for route in self.routes.routes],
            "public": _PUBLIC,
            "keys": keys,
            "metrics": self.metrics,
            "log": log,
        }
        self.routes.add_middleware(Gate, **passed)
        self._predicting = Gate(app=self._answer_predict, **passed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles an ASGI connection.

        Requests to predict rows don't go through FastAPI, which would add a third to the time
        that is spent on a row outside the model.
        """
        predicts = scope.get("path") == _PREDICT and scope.get("method") == "POST"
        await (self._predicting if predicts else self.routes)(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        await self.batcher.close()
        self._reading.shutdown()

    def _add_routes(self) -> None:
        app = self.routes
        for path, name in (("/", "page"), ("/docs", "docs")):
            app.get(path, include_in_schema=False, response_model=None)(partial(page, name))
        app.get("/health", summary="Whether the process runs")(self._health)
        app.get("/ready", summary="Whether requests are answered")(self._ready)
        app.get("/metrics", summary="Metrics for Prometheus")(self._metrics)
        app.get("/v1/tasks", summary="The model's tasks")(self._tasks)
        app.post(_PREDICT, summary="Predict rows", **schema.PREDICT)(self._predict)

    async def _health(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> JSONResponse:
        ready = self.batcher.alive and self.batcher.waiting < self.limits.queue
        return JSONResponse({"status": "ready" if ready else "busy"}, 200 if ready else 503)

    async def _metrics(self) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _tasks(self) -> JSONResponse:
        tasks = [schema.describe(task) for task in self.engine.predictor.tasks]
        return JSONResponse({"model": self.name, "tasks": tasks})

    async def _answer_predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._predict(Request(scope, receive))
        await response(scope, receive, send)

    async def _predict(self, request: Request) -> Response:
        received = await receive_body(request, self.limits)
        body = parse_object(received, ("task", "rows"))
        work = await self.in_reader(len(received), self.reader.read, body)
        answers = await unless_hung_up(request, self.answer(request, work), self.limits)
        written = {"predictions": [_written(answer) for answer in answers]}
        text = json.dumps(written, ensure_ascii=False, allow_nan=False)
        return Response(text.encode(), media_type="application/json")

    async def in_reader(self, size: int, read: Callable[..., _Read], *arguments: Any) -> _Read:
        """Calls a function that uses the tokenizer, for a long body on the tokenizer's own thread.

        For a short body, waking up another thread would take longer than reading it.
        """
        if size <= _SHORT and (read_now := self.engine.reading_now(read, *arguments)):
            return read_now[0]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self.engine.reading, read, *arguments)

    async def answer(self, request: Request, work: Sequence[Work]) -> list[Prediction]:
        """The answers to a request's work; refuses if the queue is full or the model has none."""
        facts = request.state.facts
        facts.update(rows=len(work), tokens=sum(each.tokens for each in work))
        for each in work:
            self.metrics.row(self.engine.task_name(each))
        answers = await self.batcher.submit(work)
        for number, answer in enumerate(answers):
            if isinstance(answer, PemlError):
                raise RefusedError.of(answer, status=500, kind="model", field=f"rows[{number}]")
            if isinstance(answer, Exception):
                raise answer
        return answers


def _written(answer: Prediction) -> dict[str, Any]:
    """An answer as `peml predict` writes it; ``cut`` is there if tokens were cut from the row."""
    written: dict[str, Any] = {"prediction": answer.value, "scores": answer.scores}
    return written | ({"cut": answer.cut} if answer.cut else {})


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """The routes' own errors (no such path, another method) in the service's shape."""
    assert isinstance(error, HTTPException)
    paths = sorted({getattr(route, "path", "") for route in request.app.routes})
    kind, said = "not_allowed", f"the method {request.method} is not allowed here"
    allowed = (error.headers or {}).get("Allow", "")
    if error.status_code == 404:
        kind, said = (
            "not_found",
            f"there is nothing at this path.{nearest(request.url.path, paths)}",
        )
        allowed = ", ".join(paths)
    remedy, headers = "GET /openapi.json describes the service", error.headers
    refusal = RefusedError(
        error.status_code, kind, said, allowed=allowed, remedy=remedy, headers=headers
    )
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)
