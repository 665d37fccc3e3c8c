"""Around every HTTP request: its id, a line in the log, the time it took, and a first look at its size and key."""

from __future__ import annotations

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liquid_mm.serve.answers import error_response
from liquid_mm.serve.errors import TooLarge
from liquid_mm.serve.limits import Keys
from liquid_mm.serve.logs import logger, request_id
from liquid_mm.serve.metrics import Metrics

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Observed:
    """ASGI middleware.

    Args:
        app: what it stands around.
        metrics: counts requests.
        keys: one of them opens `/v1/`; asked for before anything of a request is read.
        routes: paths that are counted by name; other ones, among them all of the page's, are counted as one.
        max_body: bytes of a request; larger ones are refused by what they say of themselves, and while they are read by
            FastAPI.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Keys, routes: frozenset[str], max_body: int) -> None:
        self.app, self._metrics, self._keys, self._routes, self._max_body = app, metrics, keys, routes, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        identity = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        request_id.set(identity)
        began, status = time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = identity
            await send(message)

        try:
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) > self._max_body:
                refusal = error_response(TooLarge(f"the request has more than {self._max_body:,} bytes."))
                await refusal(scope, receive, send_marked)
            else:
                if scope["path"].startswith("/v1/"):
                    self._keys.check(headers.get("authorization"))
                await self.app(scope, receive, send_marked)
        except Exception as error:
            if status:
                raise
            await error_response(error)(scope, receive, send_marked)
        finally:
            seconds = time.perf_counter() - began
            path = scope["path"]
            api = path.startswith("/v1/")
            route = path if path in self._routes else "/v1/other" if api else "page"
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            if api:
                fields = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
                logger.info("answered", extra=fields)
