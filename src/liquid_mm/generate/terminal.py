"""A conversation in the terminal, with pictures where it can show them.

A character cell is about twice as high as wide, so the half block ▀ in one colour on another is two square pixels.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

from liquid_mm.errors import UserError
from liquid_mm.generate.files import file_name, save_picture
from liquid_mm.generate.model import LiquidModel

WIDTH = 48
"""Characters a picture is wide, at most."""

HELP = "Enter sends. /image PATH adds a picture, /new starts over, /quit (or Ctrl-D) ends."


def half_blocks(image: Image.Image, width: int = WIDTH) -> Text:
    """A picture as lines of ▀, `width` characters or its own width wide, whichever is less."""
    columns = max(1, min(width, image.width))
    rows = max(2, round(image.height * columns / image.width / 2) * 2)
    small = image.convert("RGB").resize((columns, rows), Image.Resampling.LANCZOS)
    text = Text(no_wrap=True)
    for y in range(0, rows, 2):
        for x in range(columns):
            upper, lower = (small.getpixel((x, y + half)) for half in (0, 1))
            text.append("▀", Style(color=_colour(upper), bgcolor=_colour(lower)))
        text.append("\n")
    return text


def _colour(pixel: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)


def shows_pictures(console: Console) -> bool:
    """Whether there are enough colours, and somebody to see them."""
    return console.is_terminal and console.color_system in ("256", "truecolor", "windows")


def show(console: Console, part: str, picture: Image.Image | None = None) -> None:
    """Print a part of a reply as it is; under a picture's path the picture, where it can be shown."""
    console.print(part, markup=False, highlight=False, soft_wrap=True)
    if picture is not None and shows_pictures(console):
        console.print(half_blocks(picture, min(WIDTH, console.width)), soft_wrap=True)


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            yield console.input("> " if console.is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return


def talk(model: LiquidModel, out: Path, console: Console, **options: Any) -> None:
    """Read turns until there are no more, and answer each; pictures of the replies are written into `out`.

    Args:
        model: what replies; it remembers the conversation, pictures included.
        out: where its pictures go.
        console: where to read and print.
        options: those of `LiquidModel.chat`; turn number n has `seed` + n.
    """
    console.print(HELP, markup=False, highlight=False, style="dim")
    seed = options.pop("seed", None)
    told: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(console)):
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/new":
            told, pending = [], []
        elif command == "/image":
            try:
                added = [{"type": "image", "image": model.checkpoint.open_image(path)} for path in shlex.split(rest)]
            except (UserError, ValueError) as error:
                show(console, f"{error}")
                continue
            pending += added
        elif line or pending:
            asked = [*pending, *([{"type": "text", "text": line}] if line else [])]
            turn = {"role": "user", "content": asked}
            try:
                reply = model.chat([*told, turn], seed=None if seed is None else seed + number, **options)
            except UserError as error:  # the conversation has become too long, for one
                show(console, f"{error} /new starts over.")
                continue
            pending = []
            for part in reply:
                if isinstance(part, str):
                    show(console, part)
                else:
                    path = _free(out / file_name(part.prompt, part.seed))
                    show(console, str(save_picture(part, path)), part.image)
            told += [turn, {"role": "assistant", "content": [_part(part) for part in reply]}]


def _part(part: Any) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}


def _free(path: Path) -> Path:
    """`path`, or one like it that nothing lies at yet."""
    number, first = 1, path
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}_{number}")
    return path
