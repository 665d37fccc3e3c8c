"""See a record as the model sees it: its tokens coloured by loss, its images decoded from their codes.

    <bos> a red apple Generate an image … <boi> [picture] <eoi> <eos>
    grey: context                               green: what the model learns

`inspect_terminal` gives a rich renderable (pictures in half-block characters, two pixels a cell), `inspect_png` a
picture. Neighbouring tokens differ in shade, so that the tokenisation shows. `data.summary` describes a whole set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text as RichText

from liquid_mm.vocab.prompts import ImageSpan, Renderer
from liquid_mm.vocab.records import Chat, ImageToText, Record, Rendered, TextToImage
from liquid_mm.vocab.vocabulary import Grid

STYLES = {False: ("grey50", "grey70"), True: ("green4", "green3")}
"""Terminal colours of context and of what is learnt, two shades each."""

FILLS = {False: ("#e4e4e7", "#d4d4d8"), True: ("#bbf7d0", "#86efac")}
"""The same, as backgrounds of tokens in a PNG."""

FRAMES = {False: "#a1a1aa", True: "#16a34a"}

TERMINAL_COLUMNS = 32  # widest picture in the terminal
PNG_WIDTH, MARGIN, PICTURE_SIDE, FONT_SIZE = 960, 24, 160, 18


class Decoder(Protocol):
    """The part of an image tokenizer that is needed here."""

    @property
    def fingerprint(self) -> str:
        """Hash of its weights."""

    def decode(self, grids: list[Grid]) -> list[Image.Image]:
        """One RGB image per grid of codes."""


@dataclasses.dataclass(frozen=True)
class Token:
    """A piece of text as the model reads it, and whether it is learnt."""

    text: str
    loss: bool


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as its codes show it, and whether they are learnt."""

    image: Image.Image
    grid: tuple[int, int]
    loss: bool


def inspect_terminal(record: Record, renderer: Renderer, image_tokenizer: Decoder | None) -> RenderableType:
    """`record` for a terminal with colours; print it with `rich.print`.

    Args:
        record: a training example, or a prompt (nothing in it is learnt).
        renderer: the model's.
        image_tokenizer: decodes the images; None where the record has none.
    """
    rendered = renderer.render(record)
    blocks: list[RenderableType] = [_title(record, rendered)]
    line = RichText()
    for number, item in enumerate(_items(record, rendered, renderer, image_tokenizer)):
        if isinstance(item, Token):
            line.append(item.text, style=STYLES[item.loss][number % 2])
            continue
        rows, columns = item.grid
        note = f" {rows}x{columns} codes, {'learnt' if item.loss else 'context'}"
        line.append(note, style=Style(color=STYLES[item.loss][1], italic=True))
        blocks += [line, half_blocks(item.image)]
        line = RichText()
    return Group(*blocks, line)


def inspect_png(record: Record, renderer: Renderer, image_tokenizer: Decoder | None) -> Image.Image:
    """`record` as an RGB image `PNG_WIDTH` pixels wide; arguments as for `inspect_terminal`."""
    rendered = renderer.render(record)
    page = _Page(str(_title(record, rendered)))
    for number, item in enumerate(_items(record, rendered, renderer, image_tokenizer)):
        if isinstance(item, Token):
            page.add_token(item, FILLS[item.loss][number % 2])
        else:
            page.add_picture(item)
    return page.finish()


def half_blocks(image: Image.Image) -> RichText:
    """`image` in "▀" characters, whose two halves are two pixels; at most `TERMINAL_COLUMNS` wide."""
    columns = min(TERMINAL_COLUMNS, image.width)
    rows = max(2, round(image.height * columns / image.width) // 2 * 2)
    pixels = np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BOX))
    text = RichText()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", style=f"{_hex(above)} on {_hex(below)}")
        text.append("\n")
    return text


def _hex(pixel: NDArray[np.uint8]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel.tolist())


def _title(record: Record, rendered: Rendered) -> RichText:
    kind = type(record).__name__
    return RichText(f"{kind}: {len(rendered)} ids, {int(rendered.loss_mask.sum())} learnt", style="bold")


def _items(
    record: Record, rendered: Rendered, renderer: Renderer, image_tokenizer: Decoder | None
) -> Iterator[Token | Picture]:
    grids = _grids(record)
    images = iter(image_tokenizer.decode(grids) if image_tokenizer and grids else ())
    shapes = iter(grids)
    for segment in renderer.segments(rendered):
        if isinstance(segment, ImageSpan):
            rows, columns = next(shapes).shape
            yield Picture(next(images), (rows, columns), segment.loss)
        else:
            yield Token(segment.text, segment.loss)


def _grids(record: Record) -> list[Grid]:
    """The images of `record` in order of reading; ids alone do not tell a picture's shape."""
    if isinstance(record, Chat):
        return [part for message in record.messages for part in message.parts if not isinstance(part, str)]
    if isinstance(record, (TextToImage, ImageToText)) and record.codes is not None:
        return [record.codes]
    return []


class _Page:
    """Boxes set from left to right, line by line, on a page that grows downwards."""

    def __init__(self, title: str) -> None:
        self._font = _font()
        self._line_height = FONT_SIZE + 10
        self._page = Image.new("RGB", (PNG_WIDTH, 400), "white")
        self._x, self._y, self._height = MARGIN, MARGIN, self._line_height
        ImageDraw.Draw(self._page).text((self._x, self._y + 2), title, fill="black", font=self._font)
        self._x = PNG_WIDTH - MARGIN - 180
        self.add_token(Token("context", False), FILLS[False][0])
        self.add_token(Token("learnt", True), FILLS[True][0])
        self._break()
        self._y += MARGIN // 2

    def add_token(self, token: Token, fill: str) -> None:
        """A token on its background; a line break in it is shown and made."""
        for number, part in enumerate(token.text.split("\n")):
            if number:
                self._box("↵", fill)
                self._break()
            if part:
                self._box(part, fill)

    def add_picture(self, picture: Picture) -> None:
        """A picture in a frame of the colour of its loss, small ones enlarged without smoothing."""
        image = picture.image
        scale = max(1, round(PICTURE_SIDE / min(image.size)))
        most = PNG_WIDTH - 2 * MARGIN - 8
        width, height = image.width * scale, image.height * scale
        if width > most:
            width, height = most, max(1, height * most // width)
        framed = Image.new("RGB", (width + 8, height + 8), FRAMES[picture.loss])
        framed.paste(image.resize((width, height), Image.Resampling.NEAREST), (4, 4))
        left, top = self._place(*framed.size)
        self._page.paste(framed, (left, top))

    def finish(self) -> Image.Image:
        """The page, cut to what is on it."""
        return self._page.crop((0, 0, PNG_WIDTH, self._y + self._height + MARGIN))

    def _box(self, text: str, fill: str) -> None:
        width = max(6, round(self._font.getlength(text))) + 2
        left, top = self._place(width, self._line_height)
        draw = ImageDraw.Draw(self._page)
        draw.rectangle((left, top, left + width - 2, top + self._line_height - 4), fill=fill)
        draw.text((left + 1, top + 2), text, fill="black", font=self._font)

    def _place(self, width: int, height: int) -> tuple[int, int]:
        """Room for a box, after what stands on this line or on the next one; the page grows as needed."""
        if self._x > MARGIN and self._x + width > PNG_WIDTH - MARGIN:
            self._break()
        left, self._x = self._x, self._x + width
        self._height = max(self._height, height)
        if self._y + self._height + MARGIN > self._page.height:
            taller = Image.new("RGB", (PNG_WIDTH, 2 * (self._y + self._height + MARGIN)), "white")
            taller.paste(self._page, (0, 0))
            self._page = taller
        return left, self._y

    def _break(self) -> None:
        self._x, self._y, self._height = MARGIN, self._y + self._height, self._line_height


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", FONT_SIZE)  # more letters than Pillow's own, where installed
    except OSError:
        return ImageFont.load_default(FONT_SIZE)
