"""Editing without retraining: the codes to keep are given, the others are drawn, in the usual order.

    keep the top half            keep the frame
    k k k k                      k k k k        k: the picture's own code, forced
    k k k k                      k . . k        .: drawn, from the prompt and every code before it
    . . . .                      k . . k
    . . . .                      k k k k

The model draws row by row and sees only what lies before: a hole is filled from what is above it and to its left. Codes
after the hole stay as they are but do not influence what is drawn, so a seam on the lower and right side is possible.
Continuing a picture downwards (out-painting) has no such limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from liquid_mm.errors import UserError
from liquid_mm.image.preprocess import center_crop_resize

Box = tuple[int, int, int, int]


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled and cut around the centre to exactly `size` = (width, height), as training pairs are."""
    return center_crop_resize(picture, size)


def kept_places(
    picture: tuple[int, int], keep: Box | Image.Image, size: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which codes stay: those whose every pixel is to be kept.

    Args:
        picture: (width, height) of the picture as it was given.
        keep: a box (left, top, right, bottom) in its pixels, or a mask of its size, white where it stays.
        size: (width, height) it is fitted to.
        grid: (rows, columns) of codes of that size.

    Returns:
        bool (rows, columns).

    Raises:
        UserError: the box is empty or outside, the mask is of another size, or everything is kept.
    """
    mask = _box_mask(picture, keep) if isinstance(keep, tuple) else keep.convert("L")
    if mask.size != picture:
        raise UserError(
            f"the mask has {mask.width}x{mask.height} pixels, the picture {picture[0]}x{picture[1]}: make them equal."
        )
    white = np.asarray(ImageOps.fit(mask, size, Image.Resampling.NEAREST)) >= 128
    rows, columns = grid
    squares = white.reshape(rows, size[1] // rows, columns, size[0] // columns)
    kept: NDArray[np.bool_] = np.asarray(squares.all(axis=(1, 3)))
    if kept.all():
        raise UserError("everything is kept, so there is nothing to draw: keep less of the picture.")
    return kept


def _box_mask(picture: tuple[int, int], box: Box) -> Image.Image:
    left, top, right, bottom = box
    width, height = picture
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(
            f"the box {left},{top},{right},{bottom} does not lie in the picture: it is left,top,right,bottom in "
            f"pixels, within 0,0,{width},{height}."
        )
    mask = Image.new("L", picture, 0)
    ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask
