"""The same picture seen a little differently: moved, resized, mirrored, dimmer, blurred.

A caption must not hang on every code being the expected one: a photograph of the thing, or the model's own drawing of
it after a trip through the image tokenizer, has others. Only captions are learnt from views, never drawing.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pictures import outdated
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from liquid_mm.files import atomic_file

BILINEAR = Image.Resampling.BILINEAR
VIEWS, WIDE_VIEWS = 8, 24


def view(image: Image.Image, rng: random.Random, *, wide: bool = False) -> Image.Image:
    """A picture of the same size; what moves out of it is lost, what comes in is white.

    Args:
        image: RGB over white.
        rng: decides everything.
        wide: turned, slanted, and further from the original in everything else as well. Hues stay nearly what they
            are: they tell a red apple from a green one.
    """
    width, height = image.size
    if wide:
        slant, turn = rng.uniform(-0.15, 0.15), rng.uniform(-15, 15)
        image = image.transform(
            image.size, Image.Transform.AFFINE, (1, slant, -slant * height / 2, 0, 1, 0), BILINEAR, fillcolor="white"
        ).rotate(turn, BILINEAR, fillcolor="white")
    scale = rng.uniform(0.65, 1.15) if wide else rng.uniform(0.8, 1.1)
    stretch = rng.uniform(0.85, 1.15) if wide else 1.0
    small = image.resize((round(width * scale * stretch), round(height * scale)), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        small = ImageOps.mirror(small)
    canvas = Image.new("RGB", image.size, "white")
    across, down = (rng.uniform(-0.08, 0.08) for _ in range(2))
    canvas.paste(
        small, (round((width - small.width) / 2 + across * width), round((height - small.height) / 2 + down * height))
    )
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.93, 1.0))
    if wide:
        canvas = ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.8, 1.2))
    canvas = ImageEnhance.Color(canvas).enhance(rng.uniform(0.8, 1.2))
    return canvas.filter(ImageFilter.GaussianBlur(rng.choice((0.0, 0.4, 0.8))))


def write_views(
    record: dict[str, Any], out: Path, count: int = VIEWS, *, wide: bool = False, folder: str = "views"
) -> list[dict[str, Any]]:
    """Write the views of a record's picture that are not there yet, or older than it; returns a record for each.

    Args:
        record: as in the caption files; its picture is below `out`.
        count: how many.
        wide: as `view` takes it.
        folder: where they go, below `out`.
    """
    found = []
    for number in range(count):
        name = record["image"].replace("images/", f"{folder}/").replace(".png", f"-{number}.png")
        if outdated(out / name, out / record["image"]):
            with Image.open(out / record["image"]) as image:
                seen = view(image.convert("RGB"), random.Random(f"{record['image']} {number}"), wide=wide)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(out / name) as part:
                seen.save(part, "png")
        found.append(record | {"id": f"{record['id']}/{number}", "image": name})
    return found
