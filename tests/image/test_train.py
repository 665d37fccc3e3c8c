"""Training an image tokenizer: it learns, resumes exactly, and its losses mean what they say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.image import train
from liquid_mm.image.dataset import ImageFolder, list_images
from liquid_mm.image.losses import PatchDiscriminator, PerceptualLoss, hinge_loss
from liquid_mm.image.recipe import ImageTokenizerConfig
from liquid_mm.image.train import train_tokenizer
from liquid_mm.image.vqgan import VQGAN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty-eight pictures of one coloured square on white."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(48):
        image = Image.new("RGB", (16, 16), "white")
        left, top = rng.integers(0, 8, 2).tolist()
        image.paste(tuple(rng.integers(0, 200, 3).tolist()), (left, top, left + 8, top + 8))
        image.save(folder / f"{index:02d}.png")
    return folder


def recipe(folder, **changes):
    values = {
        "train": [str(folder)], "resolution": 16, "channels": [16, 16, 16], "num_codes": 16, "code_dim": 4,
        "batch_size": 8, "steps": 40, "every": 10, "lr": 3e-3, "validation_share": 0.2, "precision": "fp32",
    }  # fmt: skip
    return ImageTokenizerConfig.model_validate({**values, **changes})


def test_it_learns_and_writes_a_tokenizer(folder, tmp_path):
    config = recipe(
        folder, steps=60, perceptual_weight=0.01, perceptual_blocks=1, adversarial_weight=0.01, save_dtype="float16"
    )
    report = train_tokenizer(config, tmp_path / "run", progress=False)
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert report.psnr > history[0]["psnr"] + 1
    assert "loss_adversarial" in history[-1]
    assert "loss_adversarial" not in history[0]
    tokenizer = VQGAN.load(tmp_path / "run" / "tokenizer")
    assert tokenizer.num_codes == 16
    assert json.loads((tmp_path / "run" / "report.json").read_text())["psnr"] == report.psnr
    with Image.open(tmp_path / "run" / "grid.png") as grid:
        assert grid.size == (8 * 16, 2 * 2 * 16)
    # Stored in half precision, yet the same tokenizer that was measured.
    half = {name: value.half().float() for name, value in tokenizer.model.state_dict().items()}
    assert all(torch.equal(half[name], value) for name, value in tokenizer.model.state_dict().items())


def test_a_stem_and_a_fixed_grid_make_a_plain_tokenizer(folder, tmp_path):
    config = recipe(folder, stem=2, channels=[16, 16], levels=[3, 3, 2], mse_weight=0.5, perceptual_from=0.5, steps=60)
    report = train_tokenizer(config, tmp_path / "run", progress=False)
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert report.psnr > history[0]["psnr"] + 1
    assert "loss_mse" in history[0]
    tokenizer = VQGAN.load(tmp_path / "run" / "tokenizer")
    assert (tokenizer.stem, tokenizer.downsampling, tokenizer.num_codes) == (2, 4, 18)
    (grid,) = tokenizer.encode([Image.new("RGB", (24, 16), "red")])
    assert grid.shape == (4, 6)
    assert tokenizer.decode([grid])[0].size == (24, 16)


def test_resuming_goes_on_as_if_never_stopped(folder, tmp_path, monkeypatch):
    whole = train_tokenizer(recipe(folder), tmp_path / "whole", progress=False)

    class Stopped(Exception):
        pass

    real = train._Run.train_step

    def stop_after_25(run, pixels):
        if run.step == 25:
            raise Stopped
        return real(run, pixels)

    monkeypatch.setattr(train._Run, "train_step", stop_after_25)
    with pytest.raises(Stopped):
        train_tokenizer(recipe(folder), tmp_path / "cut", progress=False)
    monkeypatch.undo()
    with pytest.raises(UserError, match="add --resume"):
        train_tokenizer(recipe(folder), tmp_path / "cut", progress=False)
    with pytest.raises(UserError, match="other settings: lr differ"):
        train_tokenizer(recipe(folder, lr=1e-3), tmp_path / "cut", resume=True, progress=False)
    resumed = train_tokenizer(recipe(folder), tmp_path / "cut", resume=True, progress=False)
    monkeypatch.setattr(train, "_Run", None)  # a finished run is not trained again
    assert train_tokenizer(recipe(folder), tmp_path / "cut", resume=True, progress=False) == whole
    assert resumed == whole
    cut, uncut = (VQGAN.load(tmp_path / name / "tokenizer") for name in ("cut", "whole"))
    assert (cut.fingerprint, cut.decoder_fingerprint) == (uncut.fingerprint, uncut.decoder_fingerprint)


@pytest.mark.parametrize("levels", [[], [3, 3, 2]], ids=["learnt", "grid"])
def test_a_decoder_alone_learns_on_while_codes_stay(folder, tmp_path, levels):
    """Flat patches get other codes than the first decoder was trained on, so there is something to learn."""
    change = {"channels": [16, 16], "levels": levels, "flat_patches": True}
    train_tokenizer(recipe(folder, **change), tmp_path / "first", progress=False)
    start = str(tmp_path / "first" / "tokenizer")
    second = recipe(folder, **change, start=start, decoder_only=True, save_dtype="float16")
    train_tokenizer(second, tmp_path / "second", progress=False)
    before, after = VQGAN.load(start), VQGAN.load(tmp_path / "second" / "tokenizer")
    pictures = [Image.open(path) for path in list_images([str(folder)])]
    codes = before.encode(pictures)
    assert all(np.array_equal(*both) for both in zip(codes, after.encode(pictures), strict=True))
    assert before.fingerprint == after.fingerprint
    assert before.decoder_fingerprint != after.decoder_fingerprint

    def error(tokenizer):
        decoded = zip(tokenizer.decode(codes), pictures, strict=True)
        return np.mean([np.abs(np.subtract(one, other, dtype=float)).mean() for one, other in decoded])

    assert error(after) < 0.8 * error(before)


def test_a_start_must_be_the_network_of_the_recipe(folder, tmp_path):
    train_tokenizer(recipe(folder, steps=1), tmp_path / "first", progress=False)
    with pytest.raises(UserError, match="another network than this recipe describes"):
        train_tokenizer(
            recipe(folder, num_codes=32, start=str(tmp_path / "first" / "tokenizer")), tmp_path / "run", progress=False
        )
    with pytest.raises(ValueError, match="decoder_only needs `start`"):
        recipe(folder, decoder_only=True)
    same = {"steps": 1, "start": str(tmp_path / "first" / "tokenizer"), "decoder_only": True}
    for change, named in (({"flat_patches": True}, "flat_patches"), ({"groups": 8}, "norm_num_groups")):
        with pytest.raises(UserError, match=f"decoder_only keeps the codes of .*, but {named} differ"):
            train_tokenizer(recipe(folder, **same, **change), tmp_path / "run", progress=False)


def test_a_decoder_goes_on_only_with_the_codes_it_began_with(folder, tmp_path):
    train_tokenizer(recipe(folder, steps=1), tmp_path / "first", progress=False)
    train_tokenizer(recipe(folder, steps=1, seed=1), tmp_path / "other", progress=False)
    second = recipe(folder, start=str(tmp_path / "first" / "tokenizer"), decoder_only=True)
    state = train._Run(second, 8).state()
    train._Run(second, 8).load(state)
    (tmp_path / "first").rename(tmp_path / "away")
    (tmp_path / "other").rename(tmp_path / "first")
    with pytest.raises(UserError, match="another tokenizer than when this run began"):
        train._Run(second, 8).load(state)


def test_perceptual_loss_ranks_blur_above_a_small_shift():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    image = np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC), dtype=np.float32)
    target = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    shifted = torch.roll(target, 1, dims=3)
    blurred = torch.nn.functional.avg_pool2d(target, 9, 1, 4, count_include_pad=False)
    loss = PerceptualLoss(3)
    assert loss(target, target).item() == 0.0
    assert loss(blurred, target) > loss(shifted, target) > 0


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge_loss(real, fake).item() == pytest.approx(((0 + 0.5) / 2 + (0 + 1) / 2) / 2)
    assert PatchDiscriminator()(torch.zeros(2, 3, 32, 32)).shape[:2] == (2, 1)


def test_images_are_listed_once_from_folders_files_and_lists(folder, tmp_path):
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"image": str(folder / "03.png")}) + "\n")
    assert list_images([listed, folder / "01.png", folder])[:3] == [
        folder / "03.png",
        folder / "01.png",
        folder / "00.png",
    ]
    assert len(list_images([listed, folder])) == 48
    assert ImageFolder([folder / "00.png"], (8, 8))[0].shape == (3, 8, 8)
    listed.write_text("{}\n")
    with pytest.raises(UserError, match=r"list.jsonl, line 1"):
        list_images([listed])
    with pytest.raises(UserError, match="no folder, image or JSONL file"):
        list_images([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures found"):
        list_images([tmp_path / "empty"])


def test_bad_recipes_are_refused(folder, tmp_path):
    (tmp_path / "r.yaml").write_text(f"train: ['{folder}']\nlearning_rate: 1\nnum_code: 5\n")
    with pytest.raises(UserError, match=r"num_code.*did you mean 'num_codes'"):
        load_config(ImageTokenizerConfig, tmp_path / "r.yaml")
    with pytest.raises(ValueError, match="not multiples of groups"):
        recipe(folder, channels=[16, 20])
    with pytest.raises(ValueError, match="not a multiple of the downsampling"):
        recipe(folder, resolution=18)
    with pytest.raises(UserError, match="fewer than one batch"):
        train_tokenizer(recipe(folder, batch_size=64), tmp_path / "run", progress=False)
