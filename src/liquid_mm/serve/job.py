"""One request under way: its replies, from the thread that computes to whoever awaits them.

    engine's thread                          event loop
    TextPiece(0) ──┐
    ImageRows(1) ──┼─ call_soon_threadsafe ─> queue ──> async for index, piece in job:
    ReplyDone(0) ──┘                                        (0, TextPiece)  (1, Preview)  (1, Picture)  (0, Finish) …

Pixels are made where they are awaited, in a thread of their own, so nobody's decoding holds up the engine. However the
job ends (all replies finished, the client gone, its deadline passed, an error), `close` frees its rows.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.generate.engine import context_length
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import Request, Result
from liquid_mm.generate.stream import Failed, ImageDone, ImageRows, ReplyDone, StreamEvent, TextPiece, preview
from liquid_mm.serve.errors import Broke, Refused, TimedOut
from liquid_mm.serve.limits import Place
from liquid_mm.serve.logs import logger
from liquid_mm.serve.metrics import Metrics
from liquid_mm.serve.stopping import StopStrings

Work = Callable[..., Awaitable[Any]]
"""`await work(function, *arguments)` runs it in a thread."""

TOO_LONG = "the request took more than {:g} seconds, the most this server gives one."


@dataclasses.dataclass(frozen=True)
class Preview:
    """Picture number `index` of the reply as far as it is drawn, in its full size."""

    index: int
    image: Image.Image


@dataclasses.dataclass(frozen=True)
class Picture:
    """Picture number `index` of the reply, finished; `codes` is (rows, columns)."""

    index: int
    image: Image.Image
    codes: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Finish:
    """A reply is complete: by itself or a stop string ("stop"), or because a limit was reached ("length")."""

    reason: Literal["stop", "length"]


Piece = TextPiece | Preview | Picture | Finish


@dataclasses.dataclass
class Usage:
    """Tokens read and made; codes of pictures are image tokens."""

    prompt_text: int = 0
    prompt_image: int = 0
    text: int = 0
    image: int = 0


@dataclasses.dataclass
class _Reply:
    """What is known of one reply so far."""

    request: Request
    stop: StopStrings
    usage: Usage
    text: str = ""
    finished: bool = False


class Job:
    """The replies to one request, as an asynchronous iterator of (number of the reply, piece).

    Args:
        model: what answers.
        requests: one for each reply, of one prompt.
        place: given back when the job ends.
        work: runs a function in a thread.
        metrics: what to tell of it.
        stop: strings that end a reply's text; they are not part of it.
        previews: of a picture under way, at most so many, evenly spaced.
        deadline: seconds until it is given up.
        waited: seconds of them that are gone.

    Raises:
        UserError: the prompt does not fit the model's context.
    """

    def __init__(
        self,
        model: LiquidModel,
        requests: Sequence[Request],
        place: Place,
        work: Work,
        metrics: Metrics,
        stop: Sequence[str] = (),
        previews: int = 0,
        deadline: float = 300.0,
        waited: float = 0.0,
    ) -> None:
        self._model, self._place, self._work, self._metrics = model, place, work, metrics
        self._context = context_length(model.checkpoint.llm)
        self._replies = [_Reply(r, StopStrings(stop), self._prompt_usage(r)) for r in requests]
        self._previews = previews
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, StreamEvent]] = asyncio.Queue()
        self._began = self._loop.time()
        self._deadline = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - waited), self._expire)
        self._futures: list[Future[Result]] = []
        try:
            for index, request in enumerate(requests):
                # A row at a time, whatever is shown: the first says that the reply waits no more.
                self._futures.append(model.submit(request, partial(self._hand_over, index), preview_rows=1))
        except BaseException:
            self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of all replies as they come, each reply's in order; the last of each is `Finish`.

        Raises:
            UserError: the model cannot do what was asked.
            Refused: the deadline passed, the server stopped, or something of ours failed.
        """
        try:
            while not all(reply.finished for reply in self._replies):
                index, event = await self._events.get()
                if isinstance(event, Failed):
                    raise self._explain(event.error)
                reply = self._replies[index]
                if not reply.finished:
                    for piece in await self._pieces(reply, index, event):
                        yield index, piece
        finally:
            self.close()

    @property
    def seeds(self) -> list[int]:
        """Of each reply."""
        return [reply.request.seed for reply in self._replies]

    @property
    def usage(self) -> Usage:
        """Tokens so far: of the prompt once, of all replies together."""
        text, image = (sum(getattr(r.usage, kind) for r in self._replies) for kind in ("text", "image"))
        return dataclasses.replace(self._replies[0].usage, text=text, image=image)

    def usage_of(self, index: int) -> Usage:
        """Tokens so far of one reply, and of the prompt."""
        return self._replies[index].usage

    def close(self) -> None:
        """End it: what still runs is cancelled and its rows are free. A second time does nothing."""
        self._timer.cancel()
        for future in self._futures:
            self._model.engine.cancel(future)
        self._place.leave()

    def fail(self, error: BaseException) -> None:
        """End it with an error, from any thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, (0, Failed(error)))

    def _hand_over(self, index: int, event: StreamEvent) -> None:
        """Called by the thread that computes: it must not wait for anything."""
        self._loop.call_soon_threadsafe(self._arrived, index, event)

    def _arrived(self, index: int, event: StreamEvent) -> None:
        if self._place.started(index):
            self._metrics.first_piece.observe(self._loop.time() - self._began)
        self._events.put_nowait((index, event))

    def _expire(self) -> None:
        self.close()
        self._events.put_nowait((0, Failed(TimedOut(TOO_LONG.format(self._deadline)))))

    async def _pieces(self, reply: _Reply, index: int, event: StreamEvent) -> list[Piece]:
        decode = self._model.decode_images
        match event:
            case TextPiece(text):
                written = self._text(reply, reply.stop.feed(text))
                if not reply.stop.hit:
                    return written
                self._model.engine.cancel(self._futures[index])
                # Its ids will never be known: their number is that of the text they made.
                reply.usage.text += self._count(reply.text)
                return [*written, self._finish(reply, "stop")]
            case ImageRows(number, codes, grid) if self._shows(len(codes), grid[0]):
                return [Preview(number, await self._work(preview, decode, event))]
            case ImageDone(number, codes):
                reply.usage.image += codes.size
                self._metrics.images.inc()
                (image,) = await self._work(decode, [codes])
                return [*self._text(reply, reply.stop.close()), Picture(number, image, codes)]
            case ReplyDone(result):
                reply.usage.text += len(result.ids)
                last = self._text(reply, reply.stop.close())
                return [*last, self._finish(reply, self._reason(reply.request, result))]
        return []

    @staticmethod
    def _text(reply: _Reply, text: str) -> list[Piece]:
        reply.text += text
        return [TextPiece(text)] if text else []

    def _finish(self, reply: _Reply, reason: Literal["stop", "length"]) -> Finish:
        reply.finished = True
        if all(other.finished for other in self._replies):
            self._metrics.count(self.usage)
        return Finish(reason)

    def _shows(self, done: int, rows: int) -> bool:
        return bool(self._previews) and done % -(-rows // (self._previews + 1)) == 0

    def _reason(self, request: Request, result: Result) -> Literal["stop", "length"]:
        if request.text is None:
            return "stop"
        pictures = [part.size for part in result.parts if isinstance(part, np.ndarray)]
        written = len(result.ids) + len(pictures)  # <boi> is one of the tokens written
        length = len(request.prompt) + written + sum(pictures) + len(pictures)
        full = self._context is not None and length >= self._context
        return "length" if full or written >= request.text.max_new_tokens else "stop"

    def _prompt_usage(self, request: Request) -> Usage:
        codes = int(self._model.vocabulary.is_code(request.prompt).sum())
        return Usage(prompt_text=len(request.prompt) - codes, prompt_image=codes)

    def _count(self, text: str) -> int:
        return len(self._model.checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])

    @staticmethod
    def _explain(error: BaseException) -> BaseException:
        if isinstance(error, UserError | Refused):
            return error
        logger.error("a reply failed", exc_info=error)
        return Broke()
