"""Pixels in and out: transparency, cropping, padding, unreadable files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.image import preprocess


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert list(preprocess.flatten(image).get_flattened_data()) == [(255, 0, 0), (255, 255, 255)]


def test_half_transparent_pixels_are_blended_and_truncated():
    pixel = preprocess.flatten(Image.new("RGBA", (1, 1), (10, 20, 30, 128))).getpixel((0, 0))
    assert pixel == tuple(int(255 * (1 - 128 / 255) + value * 128 / 255) for value in (10, 20, 30))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    assert preprocess.flatten(Image.new(mode, (3, 2))).mode == "RGB"


def test_crop_keeps_the_centre_and_the_aspect():
    image = Image.new("RGB", (30, 10), "red")
    image.paste((0, 0, 255), (10, 0, 20, 10))  # the middle third is blue
    cropped = preprocess.center_crop_resize(image, (20, 20))
    assert cropped.size == (20, 20)
    assert np.asarray(cropped)[10, 10].tolist() == [0, 0, 255]
    assert np.asarray(cropped)[:, 2:18, 2].min() > 200


def test_padding_cuts_nothing_and_centres():
    image = Image.new("RGB", (4, 2), "white")
    padded = np.asarray(preprocess.pad_to_square(image, 4))
    assert padded[0].tolist() == [list(preprocess.PAD_COLOUR)] * 4
    assert (padded[1:3] == 255).all()
    assert padded[3].tolist() == [list(preprocess.PAD_COLOUR)] * 4


def test_tensors_span_minus_one_to_one_and_come_back():
    image = Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8))
    pixels = preprocess.to_tensor([image])
    assert pixels.shape == (1, 3, 1, 1)
    assert pixels.flatten().tolist() == pytest.approx([-1.0, 128 / 127.5 - 1, 1.0], abs=1e-6)
    assert preprocess.to_images(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1))[0].getpixel((0, 0)) == (0, 127, 255)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_images_open_from_bytes_and_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated a quarter turn
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, "JPEG", exif=exif)
    assert preprocess.open_image(buffer.getvalue()).size == (2, 4)


def test_unusable_files_are_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="no image file"):
        preprocess.open_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a folder"):
        preprocess.open_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        preprocess.open_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="truncated or damaged"):
        preprocess.open_image(encoded(Image.fromarray(noise), "JPEG")[:1500])
    with pytest.raises(UserError, match="oversized: 20x20 pixels, and at most 100"):
        preprocess.open_image(encoded(Image.new("RGB", (20, 20))), max_pixels=100)
