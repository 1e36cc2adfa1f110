"""``/v1/completions`` and ``/v1/chat/completions``, in the form that OpenAI's clients speak."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from peml.serving.service import schema
from peml.serving.service.answering import receive_body, unless_hung_up
from peml.serving.service.body import parse_object
from peml.serving.service.prompts import ChatRequest, CompletionRequest, PromptReader, validate
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Text

if TYPE_CHECKING:
    from peml.serving.service.app import Service


class Completions:
    """The routes for texts."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = PromptReader(service.engine.predictor, service.name, service.limits)

    def add_routes(self) -> None:
        """Adds the routes to the service."""
        app = self._service.routes
        app.get("/v1/models", summary="Names for `model`")(self._models)
        for path, kind, summary in (
            ("/v1/completions", CompletionRequest, "Continue a text"),
            ("/v1/chat/completions", ChatRequest, "Answer a chat"),
        ):
            described = schema.body_of(kind, None)
            app.post(path, summary=summary, response_model=None, **described)(self._route(kind))

    async def _models(self) -> JSONResponse:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "peml"}
            for name in self._reader.models
        ]
        return JSONResponse({"object": "list", "data": data})

    def _route(self, kind: type[CompletionRequest | ChatRequest]) -> Any:
        async def route(request: Request) -> Response:
            received = await receive_body(request, self._service.limits)
            known = (*kind.model_fields, "max_completion_tokens")
            asked = validate(kind, parse_object(received, known, null_is_absent=True))
            form = _Form(asked)
            if asked.stream:
                return await self._stream(request, len(received), asked, form)
            text = await self._service.in_reader(len(received), self._reader.read, asked, None)
            answering = self._service.answer(request, [text])
            await unless_hung_up(request, answering, self._service.limits)
            return JSONResponse({**form.whole(text), "usage": form.usage(text)})

        return route

    async def _stream(
        self, request: Request, size: int, asked: CompletionRequest | ChatRequest, form: _Form
    ) -> Response:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        text = await self._service.in_reader(
            size,
            self._reader.read,
            asked,
            lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece),
        )
        answering = asyncio.ensure_future(self._service.answer(request, [text]))
        answering.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            # The first piece decides about the status.
            first = await unless_hung_up(request, pieces.get(), self._service.limits)
            if first is None:
                answering.result()
        except BaseException:
            answering.cancel()
            raise
        events = self._events(first, pieces, answering, text, form)
        return StreamingResponse(events, media_type="text/event-stream")

    async def _events(
        self,
        piece: str | None,
        pieces: asyncio.Queue[str | None],
        answering: asyncio.Future[Any],
        text: Text,
        form: _Form,
    ) -> AsyncIterator[str]:
        try:
            yield _event(form.piece("", first=True))
            while piece is not None:
                yield _event(form.piece(piece))
                async with asyncio.timeout(self._service.limits.timeout):
                    piece = await pieces.get()
            answering.result()
            yield _event(form.piece("", reason=text.reason))
            if form.tells_usage:
                yield _event({**form.head, "choices": [], "usage": form.usage(text)})
            yield "data: [DONE]\n\n"
        except RefusedError as error:
            yield _event(error.body())
        except TimeoutError:
            late = RefusedError(503, "timeout", "no token came in time", remedy="ask again later")
            yield _event(late.body())
        finally:
            answering.cancel()


class _Form:
    """The shape of an answer: a completion's or a chat's."""

    def __init__(self, asked: CompletionRequest | ChatRequest) -> None:
        self._chats = isinstance(asked, ChatRequest)
        self.tells_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        kind = "chat.completion" if self._chats else "text_completion"
        if asked.stream and self._chats:
            kind += ".chunk"
        self.head = {
            "id": f"{'chatcmpl' if self._chats else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self, text: Text) -> dict[str, Any]:
        """An answer in one piece."""
        said: dict[str, Any] = {"text": text.text}
        if self._chats:
            said = {"message": {"role": "assistant", "content": text.text}}
        return self._with(said, text.reason)

    def piece(self, text: str, *, first: bool = False, reason: str | None = None) -> dict[str, Any]:
        """A piece of a stream; the last has no text, and the reason why it ends."""
        if not self._chats:
            return self._with({"text": text}, reason)
        delta = {"role": "assistant", "content": ""} if first else {"content": text}
        return self._with({"delta": {} if reason else delta}, reason)

    def usage(self, text: Text) -> dict[str, int]:
        """Numbers of tokens read and written; a task's held context doesn't count."""
        read, written = len(text.ids), text.generated
        numbers = {"prompt_tokens": read, "completion_tokens": written}
        return {**numbers, "total_tokens": read + written}

    def _with(self, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return {**self.head, "choices": [choice]}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
