"""What a model is shown, before it becomes ids: four kinds of record and nothing else.

A record with its answer (codes, caption, last model turn) is a training example; the same record without it is a
prompt. `vocab.prompts.Renderer` turns either into ids, so training and generation can never disagree on a format.

    Text("Once upon a time")                          a document
    TextToImage("a red apple", codes=grid)            a caption and its picture;    codes=None: draw it
    ImageToText(grid, "a red apple")                  a picture and its caption;    text=None: describe it
    Chat((Message("user", (grid, "What is this?")),   a conversation; a last turn by the user asks for a reply
          Message("assistant", ("A red apple.",))))
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from liquid_mm.vocab.vocabulary import Grid


@dataclasses.dataclass(frozen=True)
class Text:
    """A plain document."""

    text: str


@dataclasses.dataclass(frozen=True)
class TextToImage:
    """A caption and the picture it asks for (paper: training sequences).

    Args:
        text: the caption; ignored when `unconditional`.
        codes: the picture, or None to ask for one.
        instruction: the sentence after the caption; None takes the canonical one.
        size: (width, height) in pixels to state in the prompt, or None to leave the size unsaid.
        unconditional: replace caption and instruction by `<unconditional>`, as guidance needs.
    """

    text: str
    codes: Grid | None = None
    instruction: str | None = None
    size: tuple[int, int] | None = None
    unconditional: bool = False


@dataclasses.dataclass(frozen=True)
class ImageToText:
    """A picture and its caption; `text` None asks for one."""

    codes: Grid
    text: str | None = None


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn: text and pictures in the order they are read. `role` is "system", "user" or "assistant"."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Grid, ...]


@dataclasses.dataclass(frozen=True)
class Chat:
    """A conversation. If the last turn is not the assistant's, the rendered ids end where its reply begins."""

    messages: tuple[Message, ...]


Record = Text | TextToImage | ImageToText | Chat


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Ids (T,), int64, and a mask (T,): True where the model is to learn that id from those before."""

    ids: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)
