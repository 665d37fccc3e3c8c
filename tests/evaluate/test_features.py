import sys

import numpy as np
import pytest
from evalkit import noise
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from liquid_mm.errors import UserError
from liquid_mm.evaluate.features import clean_resizer, gaussian_of, load_features

# clean-fid passes Pillow a `mode` that Pillow means to drop one day.
pillow = pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")


@pillow
def test_clean_fids_resizing_is_pils_own_antialiased_bicubic_in_floating_point():
    image = noise(0, (64, 48))
    resized = clean_resizer()(np.asarray(image))
    assert (resized.shape, resized.dtype) == ((299, 299, 3), np.float32)
    red = image.getchannel(0).convert("F").resize((299, 299), 3)
    np.testing.assert_allclose(resized[..., 0], np.asarray(red).clip(0, 255), atol=1e-4)


def test_missing_inception_weights_come_with_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LIQUID_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"curl -L --create-dirs -o .*inception-2015-12-05\.pt"):
        load_features("inception", "cpu")
    with pytest.raises(UserError, match=r"there are no Inception weights mine\.pt"):
        load_features("inception:mine.pt", "cpu")


# The published weights are a TorchScript file, which torch means to drop one day.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pillow
def test_inception_gets_pixels_as_clean_fid_feeds_them(tmp_path):
    import torch

    class Layers(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)).repeat(1, 683)[:, :2048]

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Layers()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    torch.jit.script(Net()).save(str(tmp_path / "net.pt"))
    net = load_features(f"inception:{tmp_path / 'net.pt'}", "cpu")
    image = noise(1)
    means = (clean_resizer()(np.asarray(image)).mean((0, 1)) - 128) / 128
    np.testing.assert_allclose(net([image])[0, :3], means, atol=1e-5)


def test_any_vision_model_of_transformers_will_do(tmp_path):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    net = load_features(str(tmp_path), "cpu")
    assert net.dim == 8
    images = [noise(seed) for seed in range(5)]
    features = net(images)
    gaussian = gaussian_of(iter(images), net, batch_size=2)
    np.testing.assert_allclose(gaussian.mean, features.mean(0), rtol=1e-5)
    assert gaussian.n == 5


def test_efficientnet_lite0_tells_pictures_apart():
    pytest.importorskip("efficientnet_lite_pytorch")
    net = load_features("efficientnet-lite0", "cpu")
    first, again, other = net([noise(0), noise(0), noise(1).transpose(0)])
    assert first.shape == (1280,)
    np.testing.assert_allclose(first, again, rtol=1e-5)
    assert np.abs(first - other).max() > 1e-3
    assert "not the published FID" in net.name


def test_missing_packages_and_unknown_nets_are_named(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown features"):
        load_features(str(tmp_path / "none"), "cpu")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch"):
        load_features("efficientnet-lite0", "cpu")
    monkeypatch.setitem(sys.modules, "cleanfid.resize", None)
    with pytest.raises(UserError, match="pip install clean-fid"):
        clean_resizer()
