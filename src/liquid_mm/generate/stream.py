"""A reply as somebody watching wants to see it: text as it grows, pictures row by row, and how it ended.

    engine:   Event(17) Event(402) Event(boi) Event(code) Event(code) …        one per id
    watcher:  TextPiece("Here you")  TextPiece(" are:")  ImageRows(first 8 rows)  ImageRows(16)  ImageDone  ReplyDone

Text comes in pieces that are whole characters, whatever tokens a character is spread over; the pieces together are the
reply's text. Pixels are left to who wants them: `ImageRows` holds codes, and `preview` turns them into a picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.generate.engine import Engine
from liquid_mm.generate.request import Event, Request, Result
from liquid_mm.vocab.vocabulary import Grid, Vocabulary


@dataclasses.dataclass(frozen=True)
class TextPiece:
    """More text."""

    text: str


@dataclasses.dataclass(frozen=True)
class ImageRows:
    """Picture number `index` of the reply so far: its first rows of codes, (rows so far, columns), of `grid` in all."""

    index: int
    codes: NDArray[np.int64]
    grid: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ImageDone:
    """Picture number `index` of the reply: all its codes, (rows, columns)."""

    index: int
    codes: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ReplyDone:
    """The reply is complete; nothing follows."""

    result: Result


@dataclasses.dataclass(frozen=True)
class Failed:
    """The reply broke off, and why; nothing follows."""

    error: BaseException


StreamEvent = TextPiece | ImageRows | ImageDone | ReplyDone | Failed
Decode = Callable[[Sequence[int]], str]
"""From text ids to text as it reads in the middle of a sequence."""


class TextStream:
    """Text ids to pieces of text, without cutting a character that is spread over several tokens."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._shown = 0

    def feed(self, token: int) -> str:
        """What `token` completes; "" in the middle of a character."""
        self._ids.append(token)
        # Decoded behind the tokens of the last piece, for some tokenizers treat a first token differently.
        before = self._decode(self._ids[self._start : self._shown])
        text = self._decode(self._ids[self._start :])
        if text.endswith("\ufffd"):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return text[len(before) :]

    def close(self) -> str:
        """What is left: bytes that never became a character, as replacement characters."""
        before = self._decode(self._ids[self._start : self._shown])
        text = self._decode(self._ids[self._start :])
        self._start = self._shown = len(self._ids)
        return text[len(before) :]


class Stream:
    """Translates the engine's events of one request, and the end of its future.

    Args:
        request: what was asked.
        vocabulary: the model's ids.
        decode: text ids to text.
        silent: ids that are commands rather than text.
        on_event: gets what this makes of it, in the thread that steps the engine.
        every: rows of codes between two `ImageRows` of a picture; 0 is none.
    """

    def __init__(
        self,
        request: Request,
        vocabulary: Vocabulary,
        decode: Decode,
        silent: frozenset[int],
        on_event: Callable[[StreamEvent], None],
        every: int = 0,
    ) -> None:
        self._request = request
        self._grid = request.image.grid if request.image else (0, 0)
        self._silent = silent | (request.text.stop if request.text else frozenset())
        self._vocabulary, self._emit, self._every = vocabulary, on_event, every
        self._text = TextStream(decode)
        self._codes: list[int] = []
        self._pictures = 0

    def follow(self, engine: Engine) -> Future[Result]:
        """Submit the request and translate what comes of it; the engine's future."""
        future = engine.submit(self._request, self.feed)
        future.add_done_callback(self.end)
        return future

    def feed(self, event: Event) -> None:
        """Take one of the engine's events."""
        if event.modality == "text":
            if event.token not in self._silent:
                self._piece(self._text.feed(event.token))
            if event.done or event.token == self._vocabulary.boi:
                self._piece(self._text.close())
        elif event.token != self._vocabulary.eoi:
            self._code(event.token)

    def end(self, future: Future[Result]) -> None:
        """Take the request's future once it is done; one that was cancelled needs no word."""
        if future.cancelled():
            return
        error = future.exception()
        self._emit(ReplyDone(future.result()) if error is None else Failed(error))

    def _piece(self, text: str) -> None:
        if text:
            self._emit(TextPiece(text))

    def _code(self, token: int) -> None:
        self._codes.append(token)
        rows, columns = self._grid
        done, rest = divmod(len(self._codes), columns)
        if done == rows:
            self._emit(ImageDone(self._pictures, self._vocabulary.to_codes(self._codes, self._grid)))
            self._codes, self._pictures = [], self._pictures + 1
        elif self._every and rest == 0 and done % self._every == 0:
            so_far = self._vocabulary.to_codes(self._codes, (done, columns))
            self._emit(ImageRows(self._pictures, so_far, self._grid))


def preview(
    decode: Callable[[Sequence[Grid]], Sequence[Image.Image]], rows: ImageRows, colour: str = "#282828"
) -> Image.Image:
    """A picture under way in its full size, what is not drawn yet in `colour`.

    The decoder sees only the rows so far, so the last ones look a little different from how they will.
    """
    (drawn,) = decode([rows.codes])
    height = drawn.height * rows.grid[0] // rows.codes.shape[0]
    page = Image.new("RGB", (drawn.width, height), colour)
    page.paste(drawn, (0, 0))
    return page
