"""Pictures for the tests of this folder."""

from __future__ import annotations

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "purple")


def picture(number: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A disc of some colour on noise, different for every number."""
    noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    disc = Image.new("RGB", (size[0] // 2, size[1] // 2), COLOURS[number % len(COLOURS)])
    image.paste(disc, (size[0] // 4, size[1] // 4))
    return image
