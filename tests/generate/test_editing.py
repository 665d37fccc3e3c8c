"""Which codes of a picture stay, and pictures edited by a whole model."""

import numpy as np
import pytest
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.generate.editing import kept_places
from liquid_mm.generate.model import LiquidModel
from liquid_mm.vocab.records import TextToImage
from tiny_checkpoint import tiny_checkpoint

PHOTO = Image.effect_mandelbrot((64, 32), (-2, -1.5, 1, 1.5), 20).convert("RGB")
HOT = {"temperature": 1e3, "top_k": None, "top_p": 1.0}


@pytest.fixture(scope="module")
def model():
    return LiquidModel(tiny_checkpoint("smollm"))


def places(keep, picture=(32, 16), size=(32, 16), grid=(2, 4)):
    return kept_places(picture, keep, size, grid).astype(int).tolist()


def test_a_code_stays_where_all_its_pixels_do():
    assert places((0, 0, 32, 8)) == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert places((0, 0, 17, 16)) == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert places((1, 0, 32, 9)) == [[0, 1, 1, 1], [0, 0, 0, 0]]
    assert places((3, 3, 5, 5)) == [[0] * 4] * 2


def test_white_stays_in_a_mask():
    mask = Image.new("L", (32, 16), "white")
    mask.paste("black", (8, 8, 9, 9))
    assert places(mask) == [[1, 1, 1, 1], [1, 0, 1, 1]]
    assert places(mask.convert("RGB")) == places(mask)


def test_boxes_and_masks_are_of_the_picture_before_it_is_fitted():
    # 64x32 scaled by a half.
    assert places((0, 0, 32, 16), picture=(64, 32)) == [[1, 1, 0, 0], [0, 0, 0, 0]]
    # 64x16 cut to its middle: 16 pixels are lost on either side.
    assert places((0, 0, 24, 16), picture=(64, 16)) == [[1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("keep", "named"),
    [
        ((0, 0, 33, 8), "within 0,0,32,16"),
        ((4, 4, 4, 8), "does not lie"),
        ((0, 0, 32, 16), "nothing to draw"),
        (Image.new("L", (16, 16)), "16x16 pixels"),
    ],
)
def test_what_cannot_be_kept_is_said(keep, named):
    with pytest.raises(UserError, match=named):
        places(keep)


def test_the_kept_part_has_the_pictures_codes_and_the_rest_follows_the_seed(model):
    fitted = PHOTO.crop((16, 0, 48, 32))
    (own,) = model.encode_images([fitted])
    drawn = [model.edit_image(PHOTO, "a duck", (0, 0, 64, 16), seed=seed, **HOT) for seed in (1, 1, 2)]
    for picture in drawn:
        np.testing.assert_array_equal(picture.codes[:2], own[:2])
        assert (picture.image.size, picture.prompt) == ((32, 32), "a duck")
    np.testing.assert_array_equal(drawn[0].codes, drawn[1].codes)
    assert not np.array_equal(drawn[0].codes[2:], drawn[2].codes[2:])


def test_the_size_is_stated_as_when_drawing(model):
    sampling = model.prompting.image("a duck", 0, _sampling()).image.sampling
    request = model.prompting.edit(PHOTO, "a duck", (0, 0, 64, 16), 0, sampling, size=(48, 16))
    assert request.prompt == tuple(model.render(TextToImage("a duck", size=(48, 16))).ids.tolist())
    assert (request.image.grid, len(request.image.kept)) == ((2, 6), 12)


def _sampling():
    from liquid_mm.generate.sampling_config import SamplingConfig

    return SamplingConfig(guidance_scale=3.0)
