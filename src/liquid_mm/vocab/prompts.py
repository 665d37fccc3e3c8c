"""The one renderer: records to ids and loss mask. Training, generation, evaluation and serving all come through here.

    TextToImage("a red apple", codes)

    <bos> a red apple Generate an image based on this description. <boi> 517 22 … 90 <eoi> <eos>
    loss                                                                 ^^^^^^^^^^^^^^^^^^^^^^^

The same record without its codes ends at `<boi>` and has no loss: that is the prompt. A prompt's ids are therefore
always a prefix of the ids trained on. Sequences follow the paper and its released model; every piece of
text (caption, size and instruction together) is tokenised as one string, and codes are inserted as ids.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from liquid_mm.vocab.chat import ChatRenderer, image_span
from liquid_mm.vocab.records import Chat, ImageToText, Record, Rendered, Text, TextToImage
from liquid_mm.vocab.text import TextEncoder
from liquid_mm.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTIONS: tuple[str, ...] = (
    " Generate an image based on this description.",
    " Draw a picture that shows this.",
    " Turn this description into an image.",
    " Make an image of what is described here.",
    " Please paint the scene described above.",
    " Show me what this looks like.",
    " Create a picture that matches this text.",
    " Picture this and draw it.",
)
"""What asks for a picture after a caption; the first is canonical, training draws from all."""

CAPTION_REQUEST = "The caption of this image is:"
"""What asks for a caption after a picture."""


def size_text(size: tuple[int, int]) -> str:
    """The size of an image, (width, height) in pixels, as a prompt states it.

    >>> size_text((128, 64))
    'Image Size: Width is 128 Height is 64.'
    """
    width, height = size
    return f"Image Size: Width is {width} Height is {height}."


class Renderer:
    """Turns records into ids.

    Args:
        tokenizer: the text tokenizer of the extended model.
        vocabulary: special ids and where codes start.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._encoder = TextEncoder(tokenizer)
        self._chat = ChatRenderer(self._encoder, vocabulary)

    def render(self, record: Record) -> Rendered:
        """Ids (T,) and loss mask (T,) of a record; an unanswered record gives the prompt and an all-False mask.

        Raises:
            UserError: codes that are no grid of this vocabulary's, or a conversation the chat template refuses.
        """
        if isinstance(record, Text):
            ids = self._open(record.text)
            return _rendered(ids, [True] * len(ids))
        if isinstance(record, TextToImage):
            return self._text_to_image(record)
        if isinstance(record, ImageToText):
            return self._image_to_text(record)
        if isinstance(record, Chat):
            return _rendered(*self._chat.render(record.messages))
        raise TypeError(f"not a record: {record!r}")

    @functools.cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end what the model writes: `<eos>`, and the special token that ends its turn in a chat."""
        end = self._chat.end_of_turn
        return frozenset({self.vocabulary.eos} if end is None else {self.vocabulary.eos, end})

    def _text_to_image(self, record: TextToImage) -> Rendered:
        vocabulary = self.vocabulary
        size = size_text(record.size) if record.size else ""
        if record.unconditional:
            prompt = [*self._open(f"{size} " if size else ""), vocabulary.unconditional]
        else:
            instruction = INSTRUCTIONS[0] if record.instruction is None else record.instruction
            prompt = self._open(record.text + size + instruction)
        if record.codes is None:
            return _rendered([*prompt, vocabulary.boi], [False] * (len(prompt) + 1))
        span = image_span(vocabulary, record.codes)
        # The prompt already holds <boi>: the loss begins at the first code.
        mask = [False] * (len(prompt) + 1) + [True] * len(span)
        return _rendered([*prompt, *span, vocabulary.eos], mask)

    def _image_to_text(self, record: ImageToText) -> Rendered:
        prompt = [*self._open(""), *image_span(self.vocabulary, record.codes)]
        prompt += self._encoder.plain(CAPTION_REQUEST, continuing=True)
        if record.text is None:
            return _rendered(prompt, [False] * len(prompt))
        answer = [*self._encoder.plain(record.text, continuing=True), self.vocabulary.eos]
        return _rendered(prompt + answer, [False] * len(prompt) + [True] * len(answer))

    def _open(self, text: str) -> list[int]:
        """`<bos>`, for families that have one, and the first text of a sequence."""
        bos = [] if self.vocabulary.bos is None else [self.vocabulary.bos]
        return bos + self._encoder.plain(text, continuing=False)

    def segments(self, rendered: Rendered) -> Iterator[TokenPiece | ImageSpan]:
        """`rendered` in reading order, for a person to look at: text token by token, each image as one span.

        Tokens that are single bytes of one character come as one piece, so that every piece is readable.
        """
        is_code = self.vocabulary.is_code(rendered.ids)
        start, length = 0, len(rendered)
        while start < length:
            stop = start + 1
            if is_code[start]:
                while stop < length and is_code[stop]:
                    stop += 1
                yield ImageSpan(start, stop, bool(rendered.loss_mask[start]))
            else:
                text = self._encoder.decode([int(rendered.ids[start])])
                # A character of UTF-8 has at most four bytes.
                while text.endswith("\ufffd") and stop < min(length, start + 4) and not is_code[stop]:
                    stop += 1
                    text = self._encoder.decode(rendered.ids[start:stop].tolist())
                yield TokenPiece(start, stop, text, bool(rendered.loss_mask[start]))
            start = stop


@dataclass(frozen=True)
class TokenPiece:
    """`ids[start:stop]` (one token, or the bytes of one character) as text, and whether it is learnt."""

    start: int
    stop: int
    text: str
    loss: bool


@dataclass(frozen=True)
class ImageSpan:
    """`ids[start:stop]` are the codes of one image, row by row, without `<boi>` and `<eoi>`.

    Ids do not say how many rows and columns these are.
    """

    start: int
    stop: int
    loss: bool

    @property
    def num_codes(self) -> int:
        """How many codes the image has: rows × columns."""
        return self.stop - self.start


def _rendered(ids: list[int], mask: list[bool]) -> Rendered:
    assert len(ids) == len(mask)
    return Rendered(np.array(ids, dtype=np.int64), np.array(mask, dtype=bool))
