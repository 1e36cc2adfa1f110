"""Middleware for all requests: checks the key, logs, counts, and gives errors one shape."""

import json
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.responses import JSONResponse

from peml.serving.service.keys import Keys
from peml.serving.service.metrics import Metrics
from peml.serving.service.refusal import RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HUNG_UP = 499
"""Status in the log of a request whose client went away; nobody receives it."""


class HungUpError(Exception):
    """The client closed the connection before its answer."""


class AccessLog:
    """Writes JSON lines, which hold nothing that a client can choose freely."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, **fields: Any) -> None:
        """One line, with the time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        # In ASCII: no character of a value can end the line or steer a terminal.
        self._stream.write(json.dumps({"time": now, **fields}) + "\n")
        self._stream.flush()


@dataclass(frozen=True)
class Gate:
    """ASGI middleware around the routes of an app.

    Attributes:
        routes: Their paths; others are logged as ``other``.
        public: Those that need no key.
        keys: Accepted keys; None: no key is needed.
    """

    app: Any
    routes: Collection[str]
    public: Collection[str]
    keys: Keys | None
    metrics: Metrics
    log: AccessLog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        number = secrets.token_hex(8)
        route = scope["path"] if scope["path"] in self.routes else "other"
        facts = scope.setdefault("state", {})["facts"] = {}
        status = 0

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", number.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            if self.keys is not None and route not in self.public:
                sent = dict(reversed(scope["headers"]))  # the first of a name counts
                self.keys.check(sent.get(b"authorization", b""))
            await self.app(scope, receive, sending)
        except HungUpError:
            status = HUNG_UP
        except Exception as error:  # the service keeps running after any error
            refusal = error if isinstance(error, RefusedError) else self._internal(number, error)
            if not status:
                answer = JSONResponse(refusal.body(), refusal.status, refusal.headers)
                await answer(scope, receive, sending)
            facts["error"] = refusal.kind
        finally:
            spent = time.perf_counter() - began
            self.metrics.request(route, status or HUNG_UP, spent)
            self.log.write(
                id=number,
                method=scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other",
                route=route,
                status=status or HUNG_UP,
                ms=round(spent * 1000, 2),
                **facts,
            )

    def _internal(self, number: str, error: Exception) -> RefusedError:
        """Logs where an unforeseen error arose; its message may hold what a client sent."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self.log.write(id=number, event="error", error=type(error).__name__, places=places)
        return RefusedError(
            500,
            "internal",
            "the service failed on this request",
            remedy=f"report it with the request's number, {number}, which is in the service's log",
        )
