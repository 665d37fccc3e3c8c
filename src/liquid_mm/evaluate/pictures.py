"""Picture files of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from liquid_mm.files import atomic_file
from liquid_mm.image.preprocess import flatten, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find_pictures(folder: Path) -> list[Path]:
    """All picture files in `folder` and below, in the order of their paths."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def load_picture(source: Path | Callable[[], bytes] | None) -> Image.Image:
    """The picture in a file, or of encoded bytes still to be read, as RGB with transparency over white.

    Raises:
        UserError: it is missing or damaged.
    """
    assert source is not None, "the task has pictures"
    return flatten(open_image(source if isinstance(source, Path) else source()))


def save_png(image: Image.Image, folder: Path, name: str) -> str:
    """Write `image` as `folder`/`name`; returns `name`."""
    with atomic_file(folder / name) as part:
        image.save(part, "PNG")
    return name


def grid_of_four(images: list[Image.Image]) -> Image.Image:
    """Four pictures of one size as one, two by two, row by row."""
    width, height = images[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for number, image in enumerate(images):
        sheet.paste(image, ((number % 2) * width, (number // 2) * height))
    return sheet
