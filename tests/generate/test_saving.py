"""Pictures as files: none is lost to another of the same name."""

import numpy as np
from PIL import Image

from liquid_mm.generate.files import file_name, save_pictures
from liquid_mm.generate.images import GeneratedImage


def picture(prompt, shade, seed=0):
    return GeneratedImage(Image.new("L", (2, 2), shade), np.zeros((1, 1), np.int64), prompt, seed)


def test_pictures_that_ask_for_one_name_all_stay(tmp_path):
    long = "a very long prompt " * 5
    pictures = [
        picture("A cat!", 1),
        picture("a cat", 2),
        picture("a cat", 3),
        picture(long, 4),
        picture(long + "x", 5),
    ]
    paths = save_pictures(pictures, tmp_path)
    assert [path.name for path in paths[:3]] == ["a-cat_seed0.png", "a-cat_seed0_2.png", "a-cat_seed0_3.png"]
    shades = []
    for path in paths:
        with Image.open(path) as image:
            shades.append(image.getpixel((0, 0)))
    assert shades == [1, 2, 3, 4, 5]


def test_a_name_fits_any_file_system():
    for prompt in ("𝓯" * 200, "猫" * 200, "a" * 999, "!" * 9):
        name = file_name(prompt, 2**63 - 1)
        assert len(name.encode()) < 200
        assert name.isprintable()
