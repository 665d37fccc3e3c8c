"""From a stored record to what a training row may hold: draw the task, render, name each target, make it fit.

    TextToImage("a red apple", codes)  --draw-->    ImageToText(codes, "a red apple")      with probability `reversal`
                                       --render-->  ids        <bos> <boi> codes <eoi> The … is: a red apple <eos>
                                                    loss_mask    0     0     0     0    0  0  0  1  1   1     1
                                                    modality     0     0     0     0    0  0  0  3  3   3     3

A document longer than a row is cut into windows; each window starts with the last token of the one before, which gives
context and is not learnt twice, so every token is learnt exactly once. A pair or conversation is never cut: half an
image or half a caption would teach something false. One that is too long is left out, counted and logged.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from liquid_mm.errors import UserError
from liquid_mm.vocab.prompts import INSTRUCTIONS, Renderer
from liquid_mm.vocab.records import Chat, ImageToText, Record, Rendered, Text, TextToImage
from liquid_mm.vocab.vocabulary import Vocabulary

NONE, TEXT, CODE, CAPTION = range(4)
"""Modality of a target: none (not learnt), text, image code, caption."""

ENOUGH_TO_JUDGE = 1000  # records after which too many that do not fit are an error rather than a few long captions

log = logging.getLogger(__name__)


class Example(TypedDict):
    """One rendered record, or a window of a long document; arrays of shape (T,).

    It is record number `record` of the set of source number `source`.
    """

    ids: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    modality: NDArray[np.int8]
    source: int
    record: int


def draw(
    record: Text | TextToImage | Chat,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    *,
    reversal: float,
    unconditional: float,
    paraphrase: bool,
) -> Record:
    """The task a stored record is trained on this time (paper section 3.2).

    Args:
        record: a pair may become either task; documents and conversations stay what they are.
        rng: decides; the numbers drawn do not depend on the record's kind or outcome.
        vocabulary: an image of another size than its `resolution` has its size stated in the prompt.
        reversal: share of pairs that become image to text, in [0, 1].
        unconditional: share of text-to-image samples without their caption, in [0, 1], which guidance needs.
        paraphrase: draw the instruction from all of `INSTRUCTIONS` instead of taking the canonical one.
    """
    reverse, drop, which = rng.random(), rng.random(), int(rng.integers(len(INSTRUCTIONS)))
    if not isinstance(record, TextToImage):
        return record
    if reverse < reversal:
        return captioning(record)
    return dataclasses.replace(
        sized(record, vocabulary),
        unconditional=bool(drop < unconditional),
        instruction=INSTRUCTIONS[which] if paraphrase else None,
    )


def captioning(pair: TextToImage) -> ImageToText:
    """`pair` the other way round."""
    assert pair.codes is not None
    return ImageToText(pair.codes, pair.text)


def sized(pair: TextToImage, vocabulary: Vocabulary) -> TextToImage:
    """`pair` with its size stated if that is not the model's own, as in generation."""
    assert pair.codes is not None
    rows, columns = pair.codes.shape
    size = vocabulary.pixels((rows, columns))
    return dataclasses.replace(pair, size=None if size == vocabulary.resolution else size)


def modality(record: Record, rendered: Rendered, vocabulary: Vocabulary) -> NDArray[np.int8]:
    """What each target of `rendered` is, shape (T,): NONE, TEXT, CODE or CAPTION.

    A pair's targets all count as its task's modality, `<eoi>` and `<eos>` with them; in a conversation image codes and
    `<eoi>` count as CODE and everything else, the `<boi>` that decides to draw among it, as TEXT.
    """
    task = {TextToImage: CODE, ImageToText: CAPTION}.get(type(record), TEXT)
    result = np.full(len(rendered), task, dtype=np.int8)
    if isinstance(record, Chat):
        result[vocabulary.is_code(rendered.ids) | (rendered.ids == vocabulary.eoi)] = CODE
    result[~rendered.loss_mask] = NONE
    return result


class ExampleMaker:
    """Renders records and makes them fit rows of `seq_len` tokens.

    Args:
        renderer: the model's.
        seq_len: tokens of a row.
        names: what messages call each source.
    """

    def __init__(self, renderer: Renderer, seq_len: int, names: tuple[str, ...]) -> None:
        self.renderer, self.seq_len, self.names = renderer, seq_len, names
        self.skipped: Counter[str] = Counter()
        """Pairs and conversations left out because they are longer than a row, by source."""
        self._seen = Counter[str]()
        self._lock = threading.Lock()

    def sibling(self) -> ExampleMaker:
        """One for another thread: the same counts, but a tokenizer of its own, for those are not safe to share."""
        other = copy.copy(self)
        other.renderer = copy.deepcopy(self.renderer)
        return other

    def __call__(self, source: int, number: int, record: Record) -> list[Example]:
        """The examples of record `number` of source number `source`: one, several windows of a document, or none.

        Raises:
            UserError: more than half of the records do not fit.
        """
        rendered = self.renderer.render(record)
        example = Example(
            ids=rendered.ids,
            loss_mask=rendered.loss_mask,
            modality=modality(record, rendered, self.renderer.vocabulary),
            source=source,
            record=number,
        )
        fits = len(rendered) <= self.seq_len
        self._count(self.names[source], len(rendered), skip=not fits and not isinstance(record, Text))
        if fits:
            return [example]
        return list(windows(example, self.seq_len)) if isinstance(record, Text) else []

    def _count(self, name: str, length: int, *, skip: bool) -> None:
        with self._lock:
            self._seen[name] += 1
            if not skip:
                return
            if not self.skipped[name]:
                log.warning(
                    "%s: a record of %d tokens is longer than seq_len %d and is left out", name, length, self.seq_len
                )
            self.skipped[name] += 1
            total, seen = self.skipped.total(), self._seen.total()
        if seen >= ENOUGH_TO_JUDGE and 2 * total > seen:
            raise UserError(
                f"{total} of {seen} records are longer than seq_len {self.seq_len} "
                f"(last: {length} tokens, from {name}): use a longer seq_len or shorter captions."
            )


def windows(example: Example, length: int) -> Iterator[Example]:
    """Cut `example` into windows of at most `length` tokens that overlap by one; its first token is context only."""
    total = len(example["ids"])
    for start in range(0, total - 1, length - 1):
        window = Example(
            ids=example["ids"][start : start + length],
            loss_mask=example["loss_mask"][start : start + length].copy(),
            modality=example["modality"][start : start + length].copy(),
            source=example["source"],
            record=example["record"],
        )
        if start:
            window["loss_mask"][0], window["modality"][0] = False, NONE
        yield window
