"""The router of a cluster: a request is answered by whichever replica lives, as if nothing had happened.

    replica 1: start, event 0, event 1, ✝
    replica 2: start, event 0, event 1, event 2, event 3, end          the same seed, hence the same events
    client:    start, event 0, event 1,          event 2, event 3, end

Streams of several replies interleave them as they are computed, which differs from run to run; each reply's own events
come in one order. So what has been passed on is counted for each reply.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response
from starlette.types import Message

from liquid_mm.serve import chance
from liquid_mm.serve.answers import add_error_handlers, unless_gone, with_errors
from liquid_mm.serve.asked import Asked
from liquid_mm.serve.errors import Broke, TimedOut
from liquid_mm.serve.logs import logger
from liquid_mm.serve.settings import Settings

DEATHS = 3
"""Of replicas that one request may survive; after that it is taken to be their cause."""

FULL = (429, 503)
"""Answers of a replica that takes nothing now."""

PAUSE = 0.5
"""Seconds between two tries at replicas that are full."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Router:
    """Passes requests on, and again if need be.

    Args:
        replicas: what answers.
        deadline: seconds within which a request may start anew.
    """

    def __init__(self, replicas: DeploymentHandle, deadline: float) -> None:
        self.replicas, self.deadline = replicas.options(stream=True, method_name="answer"), deadline


def router_app(settings: Settings) -> FastAPI:
    """Takes every request."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)

    @app.api_route("/{path:path}", methods=METHODS)
    async def forward(http: Request) -> Response:
        router: Any = serve.get_replica_context().servable_object
        return await answer(http, router.replicas, router.deadline)

    return app


async def answer(http: Request, replicas: DeploymentHandle, deadline: float) -> Response:
    """The answer of one of the replicas.

    Args:
        http: the request.
        replicas: gives messages of ASGI for an `Asked`.
        deadline: seconds within which the request may be started again.

    Raises:
        Refused: several replicas died of it, or the deadline passed.
        ClientGone: nobody waits any more.
    """
    drawn = chance.draw()
    headers = list(http.scope["headers"])
    if "x-request-id" not in http.headers:
        headers.append((b"x-request-id", f"req_{drawn[:16]}".encode()))
    path, query = http.scope["path"], http.scope["query_string"]
    asked = Asked(http.method, path, query, headers, await http.body(), drawn)
    messages = _messages(asked, replicas, deadline)
    head = await unless_gone(http, _first(messages))
    if Headers(raw=head["headers"]).get("content-type", "").startswith("text/event-stream"):
        return StreamingResponse(with_errors(_events(messages)), head["status"], _kept(head))
    head, body = await unless_gone(http, _whole(head, messages))
    return Response(body, head["status"], _kept(head))


def _kept(head: Message) -> dict[str, str]:
    """Headers of an answer that are passed on."""
    return {name: value for name, value in Headers(raw=head["headers"]).items() if name != "content-length"}


async def _first(messages: AsyncIterator[Message]) -> Message:
    return await anext(messages)


async def _messages(asked: Asked, replicas: DeploymentHandle, deadline: float) -> AsyncGenerator[Message, None]:
    """Messages of one replica and, if it dies, from their beginning on those of another."""
    loop = asyncio.get_running_loop()
    until, deaths = loop.time() + deadline, 0
    while True:
        response: Any = replicas.remote(asked)
        full = False
        try:
            async for message in response:
                # It was let in once: whoever is full now has to take it later.
                full = bool(deaths) and message.get("status") in FULL
                if full:
                    break
                yield message
            if not full:
                return
        except RayActorError as error:
            deaths += 1
            logger.warning("a replica died; its request runs again", extra={"deaths": deaths, "reason": str(error)})
            if deaths >= DEATHS:
                raise Broke("this request has been started on several replicas, and each of them died.") from error
        finally:
            response.cancel()
        if loop.time() > until:
            raise TimedOut("the replica that computed this answer died, and no other could take over in time.")
        await asyncio.sleep(PAUSE if full else 0)


async def _whole(head: Message, messages: AsyncIterator[Message]) -> tuple[Message, bytes]:
    """The last start there is, and the body that follows it."""
    body = b""
    async for message in messages:
        if message["type"] == "http.response.start":
            head, body = message, b""
        else:
            body += message.get("body", b"")
    return head, body


async def _events(messages: AsyncGenerator[Message, None]) -> AsyncIterator[bytes]:
    """The events of a stream, each once."""
    sent: Counter[Any] = Counter()
    seen: Counter[Any] = Counter()
    async with aclosing(messages):
        async for message in messages:
            if message["type"] == "http.response.start":
                seen.clear()
                continue
            event = message.get("body", b"")
            if event.startswith(b":"):  # a sign of life
                yield event
            if not event or event.startswith(b":"):
                continue
            reply = _reply(event)
            seen[reply] += 1
            if seen[reply] > sent[reply]:
                sent[reply] += 1
                yield event


def _reply(event: bytes) -> Any:
    """Which of a request's replies an event is about; None if it is about all of them."""
    try:
        data = json.loads(event.partition(b"data:")[2])
    except ValueError:
        return None  # [DONE]
    choices = data.get("choices") or [data]
    return choices[0].get("index")
