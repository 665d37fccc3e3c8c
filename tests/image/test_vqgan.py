"""The VQGAN against the codes and pictures the original rules give (tests/assets/parity)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.image import vqgan
from liquid_mm.image.chameleon import load_chameleon, rename
from liquid_mm.image.tokenizer import ImageTokenizer
from liquid_mm.image.vqgan import VQGAN

PARITY = Path(__file__).parents[1] / "assets" / "parity"
EXPECTED = json.loads((PARITY / "codes.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return load_chameleon(PARITY / "vqgan")


@pytest.fixture(scope="module")
def pictures():
    return [Image.open(PARITY / "images" / name) for name in EXPECTED]


def test_is_an_image_tokenizer(tokenizer):
    assert isinstance(tokenizer, ImageTokenizer)
    assert (tokenizer.num_codes, tokenizer.downsampling, tokenizer.resolution) == (8192, 16, (128, 128))
    assert tokenizer.codebook.shape == (8192, 32)


def test_codes_are_those_of_the_original(tokenizer, pictures):
    grids = tokenizer.encode(pictures)
    for (name, expected), grid in zip(EXPECTED.items(), grids, strict=True):
        width, height = expected["size_wh"]
        assert grid.shape == (height // 16, width // 16), name
        np.testing.assert_array_equal(grid.reshape(-1), expected["codes"], err_msg=name)


def test_decoded_pixels_are_within_one_level(tokenizer):
    grids = [np.array(e["codes"]).reshape(e["size_wh"][1] // 16, e["size_wh"][0] // 16) for e in EXPECTED.values()]
    for name, picture in zip(EXPECTED, tokenizer.decode(grids), strict=True):
        expected = np.asarray(Image.open(PARITY / "images" / f"rec_{name}").convert("RGB"), dtype=int)
        assert np.abs(np.asarray(picture, dtype=int) - expected).max() <= 1, name


def test_a_batch_gives_what_each_picture_gives_alone(tokenizer, pictures, monkeypatch):
    monkeypatch.setattr(vqgan, "PIXELS_PER_BATCH", 128 * 128)  # two 96×96… pictures no longer share a batch
    alone = [tokenizer.encode([picture])[0] for picture in pictures]
    together = tokenizer.encode([*pictures, *pictures])
    for index, grid in enumerate(together):
        np.testing.assert_array_equal(grid, alone[index % len(pictures)])


def test_save_and_load_keep_codes_and_fingerprint(tokenizer, pictures, tmp_path):
    tokenizer.save(tmp_path / "t")
    again = VQGAN.load(tmp_path / "t")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.decoder_fingerprint == tokenizer.decoder_fingerprint
    np.testing.assert_array_equal(again.encode(pictures[:1])[0], tokenizer.encode(pictures[:1])[0])
    with torch.no_grad():
        again.model.quantize.embedding.weight[0, 0] += 1
    assert VQGAN(again.model).fingerprint != tokenizer.fingerprint
    assert VQGAN(again.model).decoder_fingerprint != tokenizer.decoder_fingerprint


@pytest.mark.parametrize(
    ("part", "codes", "pictures"),
    [("encoder", True, False), ("decoder", False, True), ("post_quant_conv", False, True)],
)
def test_fingerprints_tell_what_codes_and_what_pictures_depend_on(tokenizer, tmp_path, part, codes, pictures):
    tokenizer.save(tmp_path / "t")
    other = VQGAN.load(tmp_path / "t")
    with torch.no_grad():
        next(getattr(other.model, part).parameters()).add_(1)
    assert (other.fingerprint != tokenizer.fingerprint) == codes
    assert (other.decoder_fingerprint != tokenizer.decoder_fingerprint) == pictures


def test_a_size_that_is_no_multiple_is_refused_by_name(tokenizer):
    with pytest.raises(UserError, match="130x128 pixels cannot be encoded: width and height must be multiples of 16"):
        tokenizer.encode([Image.new("RGB", (130, 128))])


@pytest.mark.parametrize("grid", [np.array([[8192]]), np.array([[-1]]), np.array([1, 2])])
def test_codes_outside_the_codebook_are_refused(tokenizer, grid):
    with pytest.raises(UserError, match=r"0…8191"):
        tokenizer.decode([grid])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no image tokenizer"):
        VQGAN.load(tmp_path)
    with pytest.raises(UserError, match=r"vqgan\.yaml"):
        load_chameleon(tmp_path)


def test_the_key_table_is_strict(tmp_path):
    assert rename("decoder.up.0.block.2.conv1.weight", 5) == "decoder.up_blocks.4.resnets.2.conv1.weight"
    assert rename("encoder.mid.attn_1.proj_out.bias", 5) == "encoder.mid_block.attentions.0.to_out.0.bias"
    with pytest.raises(UserError, match=r"unknown weight 'encoder\.extra\.weight'"):
        rename("encoder.extra.weight", 5)

    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "vqgan.yaml").write_bytes((PARITY / "vqgan" / "vqgan.yaml").read_bytes())
    state = torch.load(PARITY / "vqgan" / "vqgan.ckpt", weights_only=True)["state_dict"]
    del state["post_quant_conv.bias"]
    torch.save({"state_dict": {**state, "loss.logvar": torch.zeros(1)}}, folder / "vqgan.ckpt")
    with pytest.raises(UserError, match=r"lacks 1 weights, the first is 'post_quant_conv.bias'"):
        load_chameleon(folder)
    wide = {name: value.repeat(2) if name == "decoder.conv_in.bias" else value for name, value in state.items()}
    torch.save({"state_dict": wide}, folder / "vqgan.ckpt")
    with pytest.raises(UserError, match=r"'decoder\.conv_in\.bias' has the shape .* different models"):
        load_chameleon(folder)
    (folder / "vqgan.ckpt").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="damaged or holds more than tensors"):
        load_chameleon(folder)


def test_full_size_layout_has_the_released_names():
    """Chameleon's VQGAN at full size, on the meta device: 68.7 M parameters, and every one has a taming name."""
    from diffusers import VQModel

    channels = (128, 128, 256, 256, 512)
    with torch.device("meta"):
        model = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 5, up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=channels, layers_per_block=2, latent_channels=256, num_vq_embeddings=8192,
            vq_embed_dim=256, sample_size=512,
        )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(68.7e6, rel=0.005)
    taming = [
        *(f"{side}.{name}.weight" for side in ("encoder", "decoder") for name in ("conv_in", "norm_out", "conv_out")),
        *(f"encoder.down.{level}.downsample.conv.bias" for level in range(4)),
        *(f"decoder.up.{level}.upsample.conv.bias" for level in range(1, 5)),
        *(f"encoder.down.{level}.block.1.norm2.weight" for level in range(5)),
        *(f"decoder.up.{level}.block.2.conv2.weight" for level in range(5)),
        *(f"encoder.down.{level}.block.0.nin_shortcut.weight" for level in (2, 4)),
        *(f"decoder.up.{level}.block.0.nin_shortcut.weight" for level in (1, 3)),
        "encoder.mid.attn_1.q.weight", "decoder.mid.block_2.conv1.bias",
        "quantize.embedding.weight", "quant_conv.weight",
    ]  # fmt: skip
    assert {rename(name, 5) for name in taming} <= set(model.state_dict())


@pytest.fixture(scope="module")
def unifying(tokenizer):
    return VQGAN(tokenizer.model, flat_patches=True)


def on(background, box=(40, 56, 90, 100)):
    """A picture of 128 × 128: some noise in `box` (left, top, right, bottom) on one colour."""
    picture = np.full((128, 128, 3), background, np.uint8)
    left, top, right, bottom = box
    picture[top:bottom, left:right] = np.random.default_rng(0).integers(0, 256, (bottom - top, right - left, 3))
    return Image.fromarray(picture)


def test_patches_of_one_colour_have_the_code_of_that_colour_whatever_surrounds_them(tokenizer, unifying):
    for background in ((255, 255, 255), (20, 90, 200)):
        plain = tokenizer.encode([Image.new("RGB", (128, 128), background)])[0][4, 4]
        before, after = tokenizer.encode([on(background)])[0], unifying.encode([on(background)])[0]
        touched = np.zeros((8, 8), bool)
        touched[56 // 16 : -(-100 // 16), 40 // 16 : -(-90 // 16)] = True
        assert (after[~touched] == plain).all()
        np.testing.assert_array_equal(after[touched], before[touched])


def test_a_patch_is_flat_up_to_four_levels(unifying):
    noisy = np.full((16, 32, 3), 100, np.uint8)
    noisy[3, 5], noisy[3, 21] = 104, 105
    pixels = (torch.from_numpy(noisy).permute(2, 0, 1)[None].float() / 127.5) - 1.0
    flat, colours = vqgan.flat_patches(pixels, 16)
    assert flat.tolist() == [[[True, False]]]
    assert colours[0, :, 0, 0].tolist() == [100, 100, 100]


def test_unified_codes_are_kept_in_the_folder_and_told_by_the_fingerprint(tokenizer, unifying, tmp_path):
    unifying.save(tmp_path / "on")
    tokenizer.save(tmp_path / "off")
    again = VQGAN.load(tmp_path / "on")
    assert again.flat_patches
    assert not VQGAN.load(tmp_path / "off").flat_patches
    assert again.fingerprint == unifying.fingerprint != tokenizer.fingerprint
    np.testing.assert_array_equal(again.encode([on((255, 255, 255))])[0], unifying.encode([on((255, 255, 255))])[0])
