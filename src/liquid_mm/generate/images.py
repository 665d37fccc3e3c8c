"""A picture the model drew, with what is needed to draw it again."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclasses.dataclass(frozen=True)
class GeneratedImage:
    """One drawn picture.

    Attributes:
        image: RGB pixels.
        codes: (rows, columns) int64, each in [0, num_codes).
        prompt: the text it was drawn for.
        seed: with the same prompt and settings it gives the same codes; of a picture within a reply it is the reply's,
            which the whole conversation decides.
    """

    image: Image.Image
    codes: NDArray[np.int64]
    prompt: str
    seed: int
