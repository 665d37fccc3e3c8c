from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.inspect import FILLS, FRAMES, half_blocks, inspect_png, inspect_terminal
from liquid_mm.vocab.records import ImageToText, Text, TextToImage


def terminal(renderable) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    console.print(renderable)
    return console.file.getvalue()


def plain(renderable) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    return console.file.getvalue()


def colours(image: Image.Image) -> set[str]:
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in image.getcolors(image.width * image.height)}


def test_the_terminal_shows_every_token_and_every_picture(sets, renderer, image_tokenizer):
    chat = TokenizedSet(sets["chat"])[2]
    shown = plain(inspect_terminal(chat, renderer, image_tokenizer))
    for text in ("What?", "A disc, 2 pixels wide.", "Here:", "<boi>", "<eoi>"):
        assert text in shown
    assert shown.count("2x2 codes, context") == 1
    assert shown.count("2x2 codes, learnt") == 1
    assert shown.count("▀") == 2 * 32 * 16
    rendered = renderer.render(chat)
    assert f"Chat: {len(rendered)} ids, {rendered.loss_mask.sum()} learnt" in shown


def test_what_is_learnt_is_green_and_context_grey(renderer):
    learnt = terminal(inspect_terminal(Text("the duck"), renderer, None)).split("\n", 1)[1]
    prompt = terminal(inspect_terminal(TextToImage("the duck"), renderer, None)).split("\n", 1)[1]
    green, grey = ("\x1b[38;5;28m", "\x1b[38;5;40m"), ("\x1b[38;5;244m", "\x1b[38;5;249m")
    assert any(code in learnt for code in green)
    assert not any(code in learnt for code in grey)
    assert any(code in prompt for code in grey)
    assert not any(code in prompt for code in green)


def test_half_blocks_are_the_pixels():
    image = Image.fromarray(np.array([[[1, 2, 3]], [[250, 251, 252]]], dtype=np.uint8))
    assert "38;2;1;2;3;48;2;250;251;252m▀" in terminal(half_blocks(image))
    wide = half_blocks(Image.new("RGB", (640, 320))).plain
    assert wide.count("\n") == 8
    assert len(wide.split("\n")[0]) == 32


@pytest.mark.parametrize("kind", ["pairs", "text", "chat"])
def test_a_png_of_every_kind(sets, renderer, image_tokenizer, kind):
    page = inspect_png(TokenizedSet(sets[kind])[9 if kind == "text" else 2], renderer, image_tokenizer)
    assert page.size[0] == 960
    found = colours(page)
    assert set(FILLS[True]) <= found
    assert (FRAMES[True] in found) == (kind != "text")
    assert (FRAMES[False] in found) == (kind == "chat")


def test_the_png_holds_the_decoded_picture(renderer, image_tokenizer):
    codes = np.array([[1, 2], [3, 4]])
    (picture,) = image_tokenizer.decode([codes])
    page = inspect_png(ImageToText(codes, "a disc"), renderer, image_tokenizer)
    enlarged = np.asarray(picture.resize((160, 160), Image.Resampling.NEAREST))
    pixels = np.asarray(page)
    frame = np.all(pixels == (0xA1, 0xA1, 0xAA), axis=-1)
    top, left = np.argwhere(frame)[0]
    np.testing.assert_array_equal(pixels[top + 4 : top + 164, left + 4 : left + 164], enlarged)


def test_a_long_record_makes_a_long_page(renderer):
    short, long = (inspect_png(Text("the duck\n" * count), renderer, None).height for count in (2, 60))
    assert long > short + 58 * 20
