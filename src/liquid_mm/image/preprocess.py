"""From any picture to the pixels the image tokenizer reads, and back.

    open_image → flatten (RGB over white) → center_crop_resize or pad_to_square → to_tensor ∈ [-1, 1]
    tensor ∈ [-1, 1] → to_images

Training pairs are cropped (`center_crop_resize`), pictures to be understood are padded (`pad_to_square`) so that
nothing is cut off (paper: data preparation).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from liquid_mm.errors import UserError

PAD_COLOUR = (122, 116, 104)
"""Fill of padded pictures: the mean colour the released model was trained with."""

MAX_PIXELS = 64_000_000
"""Largest picture opened by default, in pixels; larger ones may be decompression bombs."""

MAX_ASPECT = 2.0
"""Training pairs whose longer side is over this many times the shorter are dropped (paper: data preparation)."""


def open_image(source: str | Path | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and fully decode a picture from a path, encoded bytes or a PIL image, upright by its EXIF orientation.

    Raises:
        UserError: the file is missing, is not an image, is truncated, or has more than `max_pixels` pixels.
    """
    name = str(source) if isinstance(source, str | Path) else "the given picture"
    try:
        with warnings.catch_warnings():
            # Our own limit below is the one that counts; Pillow's warning would only repeat it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                return _decoded(source, name, max_pixels)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _decoded(image, name, max_pixels)
    except FileNotFoundError as error:
        raise UserError(f"there is no image file {name}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} is a folder, not an image file.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image that can be read (PNG, JPEG, WebP, GIF, BMP, TIFF …).") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is oversized: at most {max_pixels:,} pixels are allowed.") from error
    except OSError as error:
        if error.errno is None:  # Pillow's own: the file was read, and is no whole picture
            raise UserError(f"{name} is truncated or damaged: {error}.") from error
        raise UserError(f"{name} could not be opened: {error.strerror}.") from error
    except SyntaxError as error:  # Pillow reports truncated and damaged files as either
        raise UserError(f"{name} is truncated or damaged: {error}.") from error


def _decoded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"{name} is oversized: {image.width}x{image.height} pixels, and at most {max_pixels:,} are allowed."
        )
    image.load()
    return ImageOps.exif_transpose(image)


def flatten(image: Image.Image) -> Image.Image:
    """RGB, with anything transparent laid over white.

    Blended in floating point and truncated, as the released model's data were: rounding differs by one level, which is
    enough to change a code.
    """
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3:] / 255.0
    return Image.fromarray(((1.0 - alpha) * 255.0 + alpha * rgba[..., :3]).astype(np.uint8))


def center_crop_resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale to cover `size` = (width, height) with Lanczos, then cut the centre: exactly `size`, aspect kept."""
    width, height = size
    scale = max(width / image.width, height / image.height)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def pad_to_square(image: Image.Image, side: int, colour: tuple[int, int, int] = PAD_COLOUR) -> Image.Image:
    """Pad the shorter side evenly with `colour`, then resize to `side` × `side` pixels with Lanczos; nothing is cut."""
    longest = max(image.size)
    if image.width != image.height:
        square = Image.new("RGB", (longest, longest), colour)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        image = square
    return image if longest == side else image.resize((side, side), Image.Resampling.LANCZOS)


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB images of one size as a float32 tensor (B, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(image, dtype=np.uint8) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W), nominally in [-1, 1], as RGB images: clamped, scaled to 0…255 and truncated."""
    levels = ((pixels.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0).to(torch.uint8)
    return [Image.fromarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]
