"""A reply as it is watched: whole characters, growing pictures, one last word."""

from concurrent.futures import Future

import numpy as np
import pytest
from PIL import Image

from liquid_mm.generate.grammar import ImageTask, TextTask
from liquid_mm.generate.request import Event, Request, Result
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.generate.stream import Failed, ImageDone, ImageRows, ReplyDone, Stream, TextPiece, TextStream, preview
from liquid_mm.vocab.text import TextEncoder
from liquid_mm.vocab.vocabulary import Vocabulary
from tiny import tiny_liquid

VOCABULARY = Vocabulary(
    20, 20, 8, boi=7, eoi=8, unconditional=9, bos=2, eos=1, pad=0, downsampling=8, resolution=(16, 24)
)
REQUEST = Request((2,), 0, ImageTask((3, 2), SamplingConfig()), TextTask(9, SamplingConfig(), stop=frozenset({1, 19})))


@pytest.mark.parametrize("family", ["gemma", "qwen2", "phi3", "llama3"])
@pytest.mark.parametrize(
    "text", [" a red apple, a cat", " naïve 日本語 🎨👩‍🚀 a", "🎨", "x 👩", "  two  spaces\n\nend "]
)
def test_pieces_are_whole_characters_and_make_up_the_text(family, text):
    _, tokenizer, _ = tiny_liquid(family)
    encoder = TextEncoder(tokenizer)
    ids = encoder.plain(text, continuing=True)
    stream = TextStream(encoder.decode)
    pieces = [stream.feed(token) for token in ids]
    assert stream.close() == ""
    assert "".join(pieces) == encoder.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 1 or len(ids) < 5


def test_bytes_that_become_no_character_come_at_the_end():
    _, tokenizer, _ = tiny_liquid("qwen2")
    encoder = TextEncoder(tokenizer)
    ids = encoder.plain("a🎨", continuing=True)[:-1]
    stream = TextStream(encoder.decode)
    assert [piece for token in ids if (piece := stream.feed(token))] == ["a"]
    assert stream.close() == encoder.decode(ids)[1:] != ""


def watch(tokens, every=0, request=REQUEST):
    """What a watcher gets of a reply of these ids; text ids read as letters."""
    seen = []
    letters = lambda ids: "".join(chr(ord("a") + token) for token in ids)  # noqa: E731
    stream = Stream(request, VOCABULARY, letters, frozenset({7, 8}), seen.append, every)
    for number, token in enumerate(tokens, 1):
        modality = "image" if token >= 20 or token == 8 else "text"
        stream.feed(Event(0, token, modality, number == len(tokens)))
    return seen


def test_text_and_pictures_in_order():
    events = watch([3, 4, 7, 20, 21, 22, 23, 24, 25, 8, 5, 19])
    assert events[:2] == [TextPiece("d"), TextPiece("e")]
    assert isinstance(events[2], ImageDone)
    assert events[2].index == 0
    assert events[2].codes.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert events[3:] == [TextPiece("f")], "a stop id is no text"


def test_a_picture_grows_row_by_row():
    codes = [20, 21, 22, 23, 24, 25]
    grown = watch([7, *codes, 8, 7, *codes, 8, 1], every=1)
    kinds = [(type(event).__name__, event.index, len(event.codes)) for event in grown]
    once = [("ImageRows", 0, 1), ("ImageRows", 0, 2), ("ImageDone", 0, 3)]
    assert kinds == once + [(name, 1, rows) for name, _, rows in once]
    assert [len(event.codes) for event in watch([7, *codes, 8, 1], every=2)] == [2, 3]


def test_the_last_word_is_the_result_or_what_went_wrong():
    result, error = Result(((3,),)), RuntimeError("no")
    for settle, last in [
        (lambda f: f.set_result(result), ReplyDone(result)),
        (lambda f: f.set_exception(error), Failed(error)),
        (lambda f: f.cancel(), None),
    ]:
        seen, future = [], Future()
        stream = Stream(REQUEST, VOCABULARY, str, frozenset(), seen.append)
        future.add_done_callback(stream.end)
        settle(future)
        assert seen == ([] if last is None else [last])


def test_a_preview_has_the_full_size():
    rows = ImageRows(0, np.zeros((1, 2), np.int64), (3, 2))
    page = preview(lambda grids: [Image.new("RGB", (16, 8), "white") for _ in grids], rows, "black")
    assert page.size == (16, 24)
    assert [page.getpixel((0, y)) for y in (0, 7, 8, 23)] == [(255,) * 3] * 2 + [(0,) * 3] * 2
