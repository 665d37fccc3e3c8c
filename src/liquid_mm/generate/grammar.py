"""Which ids may come next: the one place that knows how text and pictures may follow each other.

    text ──<boi>──> image (exactly rows × columns codes) ──<eoi>, not sampled──> text ── a stop id, or a limit ──> done

A picture request starts inside an image and ends with its last code; a text request never leaves text; a reply in a
conversation may go round as long as its limits allow, and a picture is only opened where all of it fits. Inside an
image only codes are possible, in text only text; where a picture is edited, the codes to keep are forced. Every case is
one contiguous range of ids with a few left out, so an engine need not compute the logits of the rest at all.

The released code lets text sampling run over all ids, codes included; `TextTask.unrestricted` reproduces that.

Nothing here touches a device: `Grammar` is told the ids one by one and answers in plain Python.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary

Modality = Literal["text", "image"]
Part = tuple[int, ...] | NDArray[np.int64]
"""A stretch of a reply: text ids, or a picture as a (rows, columns) grid of codes in [0, num_codes)."""


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """Pictures to draw: `grid` is (rows, columns); `unconditional` the prompt ids guidance steps away from.

    `max_images` bounds how many a reply in a conversation may open. `kept`, for editing, says which codes are given:
    for each place of the grid, row by row, the id that stands there or None; empty where all are drawn.
    """

    grid: tuple[int, int]
    sampling: SamplingConfig
    unconditional: tuple[int, ...] = ()
    max_images: int = 1
    kept: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.kept) in (0, self.grid[0] * self.grid[1]), "one entry for each place of the grid"


@dataclasses.dataclass(frozen=True)
class TextTask:
    """Text to write: at most `max_new_tokens` ids, ending early at one of `stop` (not part of the text)."""

    max_new_tokens: int
    sampling: SamplingConfig
    stop: frozenset[int]
    unrestricted: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """The ids that may come next: all of `span` but those in `excluded`."""

    span: range
    excluded: tuple[int, ...] = ()


class Grammar:
    """Follows one reply.

    Args:
        vocabulary: the ids.
        image, text: `image` alone: a picture; `text` alone: text; both: text in which pictures may be opened.
        room: most ids of any kind the model's context leaves for the reply; None is no bound.
    """

    def __init__(
        self, vocabulary: Vocabulary, image: ImageTask | None, text: TextTask | None, room: int | None = None
    ) -> None:
        assert image or text, "a request asks for a picture, for text, or for both"
        assert not (image and text and text.unrestricted), "unrestricted text cannot open pictures"
        self.vocabulary, self.image, self.text = vocabulary, image, text
        self.modality: Modality = "text" if text else "image"
        self.done = False
        self.parts: list[Part] = []
        self._run: list[int] = []
        self._room = float("inf") if room is None else room
        self._written = self._opened = 0

    @property
    def forced(self) -> int | None:
        """The id that must come next without asking the model: a code that is kept, and `<eoi>` once a grid is full."""
        if self.modality == "text":
            return None
        if not self.drawing:
            return self.vocabulary.eoi
        assert self.image
        return self.image.kept[len(self._run)] if self.image.kept else None

    @property
    def drawing(self) -> bool:
        """Whether the next id is a code."""
        return not self.done and self.modality == "image" and len(self._run) < self._codes

    @property
    def choice(self) -> Choice:
        """The ids that may come next."""
        assert not self.done
        assert self.forced is None
        v = self.vocabulary
        if self.modality == "image":
            return Choice(v.codes)
        assert self.text
        if self.text.unrestricted:
            return Choice(range(v.size))
        never = {v.eoi, v.unconditional, v.pad, v.bos} | (set() if self._may_open else {v.boi})
        return Choice(range(v.text_size), tuple(sorted(i for i in never - self.text.stop if i is not None)))

    @property
    def sampling(self) -> SamplingConfig:
        """How the next id is sampled."""
        task = self.image if self.modality == "image" else self.text
        assert task
        return task.sampling

    def accept(self, token: int) -> None:
        """Take note of the next id."""
        assert not self.done
        self._room -= 1
        if self.modality == "image":
            self._accept_in_image(token)
        else:
            self._accept_in_text(token)

    @property
    def open_codes(self) -> list[int]:
        """Ids of the codes of the picture under way."""
        return self._run if self.modality == "image" else []

    @property
    def codes_left(self) -> int:
        """Codes that the picture under way still lacks."""
        return self._codes - len(self._run) if self.drawing else 0

    @property
    def _codes(self) -> int:
        assert self.image
        return self.image.grid[0] * self.image.grid[1]

    @property
    def _may_open(self) -> bool:
        return bool(self.image and self._opened < self.image.max_images and self._codes + 2 <= self._room)

    @property
    def _exhausted(self) -> bool:
        return self.text is not None and (self._written >= self.text.max_new_tokens or self._room < 1)

    def _accept_in_image(self, token: int) -> None:
        if self.drawing:
            assert token in self.vocabulary.codes
            self._run.append(token)
            if self.text is None and len(self._run) == self._codes:
                self._close_part()
                self.done = True
        else:
            assert token == self.vocabulary.eoi
            self._close_part()
            self.modality = "text"
            self.done = self._exhausted

    def _accept_in_text(self, token: int) -> None:
        assert self.text
        self._written += 1
        if token == self.vocabulary.boi and self.image:
            self._close_part()
            self._opened += 1
            self.modality = "image"
            return
        stopped = token in self.text.stop
        if not stopped:
            self._run.append(token)
        if stopped or self._exhausted:
            self._close_part()
            self.done = True

    def _close_part(self) -> None:
        if self.modality == "image":
            assert self.image
            self.parts.append(self.vocabulary.to_codes(self._run, self.image.grid))
        elif self._run:
            self.parts.append(tuple(self._run))
        self._run = []
