"""One model on a cluster: the application, called by messages of ASGI instead of a socket. Nothing here knows Ray."""

from __future__ import annotations

import asyncio
import logging.config
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from starlette.types import Message

from liquid_mm.generate.model import load
from liquid_mm.serve import chance
from liquid_mm.serve.app import create_app
from liquid_mm.serve.asked import Asked
from liquid_mm.serve.logs import log_config
from liquid_mm.serve.settings import Settings


class Replica:
    """A deployment's replica: it loads and warms the model before it takes requests.

    Args:
        checkpoint: of the model.
        name: what clients call it; None is the folder's name.
        settings: fields of `Settings`.
        loading: further arguments of `liquid_mm.load`.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, checkpoint: str, name: str | None, settings: dict[str, Any], loading: dict[str, Any]
    ) -> None:
        logging.config.dictConfig(log_config())
        model = await asyncio.to_thread(load, checkpoint, **loading)
        name = name or Path(checkpoint).resolve().name
        self._app = create_app(model, Settings(**settings), name=name, page=False)
        self._life = AsyncExitStack()
        await self._life.enter_async_context(self._app.router.lifespan_context(self._app))

    async def __del__(self) -> None:
        await self._life.aclose()

    async def check_health(self) -> None:
        """Raise if this replica is to be replaced by a new one."""
        if error := self._app.state.service.broken:
            raise RuntimeError("the engine failed") from error

    async def state(self) -> dict[str, int]:
        """Which process this is, and how many replies it has under way."""
        return {"pid": os.getpid(), "running": self._app.state.service.running}

    async def answer(self, asked: Asked) -> AsyncIterator[Message]:
        """The messages with which the application answers; who stops taking them is a client that went away."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        gone, body = asyncio.Event(), [asked.body]

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            chance.use(asked.drawn)
            try:
                await self._app(asked.scope(), receive, messages.put)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                yield message
        finally:
            gone.set()
            await running
