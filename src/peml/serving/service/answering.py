"""Receives a body, and waits for an answer as long as the client does."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from peml.serving.service.gate import HungUpError
from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError

_Answer = TypeVar("_Answer")


async def receive_body(request: Request, limits: Limits) -> bytes:
    """The whole body; refuses one that is too large or slow, or not declared as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(
            415,
            "unsupported_media_type",
            f"the body's type is {kind!r}",
            field="Content-Type",
            allowed="application/json",
            remedy="send the header Content-Type: application/json",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > limits.body:
        raise _too_large(limits)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body:
                    raise _too_large(limits)
                chunks.append(chunk)
    except TimeoutError as error:
        raise RefusedError(
            408,
            "slow_body",
            f"after {limits.timeout:g} seconds, {size} bytes of the body had come",
            remedy="send the body faster, or a smaller one",
            headers={"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise HungUpError from error
    return b"".join(chunks)


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(
        413,
        "body_too_large",
        "the body is too large",
        allowed=f"at most {limits.body} bytes",
        remedy="send fewer rows in a request",
        headers={"Connection": "close"},
    )


async def hung_up(request: Request) -> None:
    """Returns when the client closes the connection; called after the body was received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_hung_up(
    request: Request, work: Coroutine[Any, Any, _Answer], limits: Limits
) -> _Answer:
    """The result of ``work``, which is cancelled if it takes too long or the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait(
            {task, gone}, timeout=limits.timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        if gone.done():
            raise HungUpError
        raise RefusedError(
            503,
            "timeout",
            f"there is no answer after {limits.timeout:g} seconds",
            remedy="send fewer rows in a request, or ask again later",
            headers={"Retry-After": "5"},
        )
    finally:
        gone.cancel()
        task.cancel()
