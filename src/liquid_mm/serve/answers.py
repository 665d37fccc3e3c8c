"""How answers leave: errors in OpenAI's shape, server-sent events, and a client's leaving noticed.

{"error": {"message": "size is 'big': …", "type": "invalid_request_error", "param": "size", "code": null}}
data: {"object": "chat.completion.chunk", …}
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import format_sse_event
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from liquid_mm.errors import UserError
from liquid_mm.serve.errors import Broke, Refused
from liquid_mm.serve.logs import logger

if TYPE_CHECKING:  # for a cluster's router needs nothing of models
    from liquid_mm.serve.job import Job

T = TypeVar("T")
_FIELD = re.compile(r"(?!body$|str$)[\w-]+")
"""A step to a field or an element, where others say which branch of a union was tried."""


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorBody


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is given up when the client goes away.

    Raises:
        ClientGone: it did.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events made from a job, which ends with the response however that ends.

    While there is nothing to tell, a comment now and then keeps proxies from taking the connection for dead.

    Args:
        job: the job.
        events: made of its pieces; an error among them becomes the last event.
        pause: seconds without an event after which a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(self, job: Job, events: AsyncIterator[bytes], pause: float) -> None:
        super().__init__(
            _with_comments(with_errors(events), pause), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.close()


async def with_errors(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Events, and an error among them as the last one."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        # The status line has left long ago: this is the place where clients look for it.
        _, answer = _describe(error)
        yield sse(answer, "error")


async def _with_comments(events: AsyncGenerator[bytes, None], pause: float) -> AsyncIterator[bytes]:
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(events))
            if not (await asyncio.wait({coming}, timeout=pause))[0]:
                yield COMMENT
                continue
            event, coming = coming.result(), None
            if not event:
                return
            yield event
    finally:
        if coming:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncIterator[bytes]) -> bytes:
    """The next event; nothing after the last."""
    return await anext(events, b"")


def sse(data: BaseModel | dict[str, Any], event: str | None = None) -> bytes:
    """One event."""
    text = data.model_dump_json(exclude_none=True) if isinstance(data, BaseModel) else json.dumps(data)
    return format_sse_event(data_str=text, event=event)


COMMENT = b": still at it\n\n"
"""Clients read over it."""

DONE = b"data: [DONE]\n\n"
"""The last event of a chat or completion."""


def encode(image: Image.Image, kind: str = "png") -> str:
    """A picture as the base64 of a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def data_url(image: Image.Image) -> str:
    """A picture as a data URL."""
    return f"data:image/png;base64,{encode(image)}"


def error_response(error: Exception) -> Response:
    """An error as a response in OpenAI's shape."""
    status, answer = _describe(error)
    retry_after = getattr(error, "retry_after", None)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    return JSONResponse(answer.model_dump(), status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def answer(_: Request, error: Exception) -> Response:
        return error_response(error)

    async def nobody(_: Request, error: Exception) -> Response:
        return Response(status_code=499)

    for kind in (UserError, Refused, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(ClientGone, nobody)


def _describe(error: Exception) -> tuple[int, ErrorAnswer]:
    param: str | None = None
    match error:
        case UserError():
            status, message, kind, code = 400, str(error), "invalid_request_error", None
        case Refused():
            status, message, kind, code = error.status, str(error), error.kind, error.code
        case RequestValidationError():
            status, kind, code = 400, "invalid_request_error", None
            message, param = _first(error)
        case HTTPException():
            status, message, code = error.status_code, str(error.detail), None
            kind = "invalid_request_error" if status < 500 else "server_error"
        case _:
            logger.error("a request failed", exc_info=error)
            broke = Broke()
            status, message, kind, code = broke.status, str(broke), broke.kind, broke.code
    # Half of a surrogate pair, which JSON can carry and text cannot, may have come with a name or a value.
    message = message.encode(errors="replace").decode()
    return status, ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code))


def _first(error: RequestValidationError) -> tuple[str, str | None]:
    """A sentence about the first thing that is wrong, and the field it is about."""
    # Of a union every branch complains; the branch that was meant got the furthest.
    first = max(error.errors(), key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        return "the body is not valid JSON.", None
    place = (
        ".".join(str(part) for part in first["loc"] if _FIELD.fullmatch(str(part))).encode(errors="replace").decode()
    )
    if first["type"] == "extra_forbidden":
        return f"{place} is not supported by this server.", place
    return f"{place or 'the body'}: {first['msg']}", place or None
