"""The image tokenizer that ships: a VQGAN (Esser et al., arXiv 2012.09841) held by `diffusers.VQModel`.

    pixels (B, 3, H, W) → encoder → z (B, D, H/f, W/f) → index of the nearest code vector (B, H/f, W/f)
    codes → code vectors (B, D, H/f, W/f) → decoder → pixels (B, 3, H, W)

A folder written by `save` is a plain diffusers model folder, with `encoding.json` beside it where `flat_patches` is on.
A model of 3·s² instead of 3 input channels takes squares of s pixels a side folded into channels (its *stem*), which
spares the costly layers at full resolution.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from liquid_mm.errors import UserError
from liquid_mm.files import read_json, write_json
from liquid_mm.image import preprocess

PIXELS_PER_BATCH = 4 * 1024 * 1024
"""Pixels pushed through the network at once: bounds memory whatever the picture size."""

FLAT = 4 / 127.5
"""A patch is flat if no channel differs by more than this (four of 256 levels) within it."""

ENCODER = ("encoder.", "quant_conv.", "quantize.")
DECODER = ("quantize.", "post_quant_conv.", "decoder.")
"""How the names of the weights begin that decide the codes, and what codes stand for."""


class VQGAN:
    """Pictures ↔ codes by a vector-quantised autoencoder. Implements `image.tokenizer.ImageTokenizer`.

    Args:
        model: the network.
        flat_patches: give a patch of one colour the code that a picture of that colour has, whatever surrounds it. An
            encoder sees more than one patch and hides what it knows of the neighbours in empty ones: a white background
            then has dozens of codes, which a language model must learn, and by which it tells pictures apart without
            reading the prompt.
    """

    def __init__(self, model: VQModel, *, flat_patches: bool = False) -> None:
        network: Any = model
        self.model = network.eval().requires_grad_(False)
        self.flat_patches = flat_patches
        self._code_of_colour: dict[tuple[int, ...], int] = {}

    @classmethod
    def load(cls, folder: str | Path) -> VQGAN:
        """Load a diffusers `VQModel` folder, in float32.

        Raises:
            UserError: the folder is missing or holds another kind of model.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no image tokenizer: expected a folder with a VQModel's config.json.")
        encoding = read_json(folder / "encoding.json") if (folder / "encoding.json").is_file() else {}
        try:
            model = VQModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
            return cls(model, flat_patches=encoding.get("flat_patches", False))
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder} is not a VQModel folder that can be read: {error}.") from error

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and the weights, as diffusers does; in half precision where that loses nothing."""
        state = {name: value.detach().float().cpu() for name, value in self.model.state_dict().items()}
        halves = all(torch.equal(value.half().float(), value) for value in state.values())
        model = nn.Module.to(VQModel.from_config(self.model.config), torch.float16 if halves else torch.float32)
        model.load_state_dict(state)
        model.save_pretrained(str(folder))
        if self.flat_patches:
            write_json(Path(folder) / "encoding.json", {"flat_patches": True})

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return int(self.model.config.num_vq_embeddings)

    @property
    def stem(self) -> int:
        """Side in pixels of the squares folded into channels before the first level."""
        return math.isqrt(int(self.model.config.in_channels) // 3)

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side: the stem, and every level but the last halves the picture."""
        return self.stem * int(2 ** (len(self.model.config.block_out_channels) - 1))

    @property
    def resolution(self) -> tuple[int, int]:
        """(width, height) in pixels it was trained on."""
        side = int(self.model.config.sample_size)
        return side, side

    @property
    def codebook(self) -> torch.Tensor:
        """The code vectors: float32 on the CPU, shape (num_codes, dim)."""
        weight: torch.Tensor = self.model.quantize.embedding.weight
        return weight.detach().float().cpu()

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits over encoder and codebook, and over `flat_patches` where it is on: what decides the codes.

        A decoder that was trained further reads the same codes, so it does not count.
        """
        return self._digest(b"flat_patches" if self.flat_patches else b"", ENCODER)

    @functools.cached_property
    def decoder_fingerprint(self) -> str:
        """16 hex digits over codebook and decoder: what decides the pictures that codes stand for."""
        return self._digest(b"", DECODER)

    def _digest(self, begin: bytes, parts: tuple[str, ...]) -> str:
        digest = hashlib.sha256(begin)
        for name, tensor in sorted(self.model.state_dict().items()):
            if name.startswith(parts):
                digest.update(name.encode())
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VQGAN:
        """Move to `device`; in another `dtype` than float32 a few codes may differ."""
        # Read before casting, for the fingerprints are those of the float32 weights.
        _ = self.fingerprint, self.decoder_fingerprint
        # Not VQModel's own `to`, which warns at every cast about layers to be kept in float32, of which it has none.
        nn.Module.to(self.model, device, dtype)
        return self

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> list[NDArray[np.int64]]:
        """Pictures of any sizes to grids of codes, each of shape (height / f, width / f).

        Transparent pictures are laid over white. Pictures of one size run as a batch.

        Raises:
            UserError: a side is not a positive multiple of `downsampling`.
        """
        flat = [preprocess.flatten(image) for image in images]
        step = self.downsampling
        for image in flat:
            if image.width % step or image.height % step:
                raise UserError(
                    f"a picture of {image.width}x{image.height} pixels cannot be encoded: "
                    f"width and height must be multiples of {step}. Crop or resize it first."
                )
        grids: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(flat)
        for indices in _batches([image.size for image in flat], step=1):
            codes = self.encode_pixels(preprocess.to_tensor([flat[index] for index in indices]))
            for index, grid in zip(indices, codes, strict=True):
                grids[index] = grid
        return grids

    @torch.inference_mode()
    def encode_pixels(self, pixels: torch.Tensor) -> NDArray[np.int64]:
        """Pixels (B, 3, H, W) in [-1, 1], on the CPU, to codes (B, H/f, W/f); the sides are multiples of f."""
        codes: NDArray[np.int64] = self._nearest(pixels.to(self.model.device, self.model.dtype)).cpu().numpy()
        if self.flat_patches:
            self._unify_flat(pixels, codes)
        return codes

    @torch.inference_mode()
    def decode(self, grids: Sequence[NDArray[np.integer[Any]]]) -> list[Image.Image]:
        """Grids of codes, each (rows, columns), to RGB pictures of (columns · f, rows · f) pixels.

        Raises:
            UserError: a code is outside [0, num_codes).
        """
        for grid in grids:
            if grid.ndim != 2 or grid.size == 0 or grid.min() < 0 or grid.max() >= self.num_codes:
                raise UserError(f"a grid of codes must be 2-D with values in 0…{self.num_codes - 1}.")
        images: list[Image.Image | None] = [None] * len(grids)
        for indices in _batches([grid.shape for grid in grids], step=self.downsampling):
            codes = torch.from_numpy(np.stack([grids[index] for index in indices]).astype(np.int64))
            for index, image in zip(indices, preprocess.to_images(self._decode_codes(codes)), strict=True):
                images[index] = image
        return [image for image in images if image is not None]

    def vectors(self, codes: torch.Tensor | NDArray[np.int64]) -> torch.Tensor:
        """Codes (B, h, w) → code vectors (B, D, h, w), what the decoder reads."""
        table: torch.Tensor = self.model.quantize.embedding.weight
        return table[torch.as_tensor(codes, device=table.device)].permute(0, 3, 1, 2).contiguous()

    def _nearest(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] → (B, H/f, W/f) codes. Distances in float32: ties are close in lower precision."""
        latents = self.model.encode(fold(pixels, self.stem)).latents.float()
        batch, _, rows, columns = latents.shape
        vectors = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        nearest = torch.cdist(vectors, self.model.quantize.embedding.weight.float()).argmin(dim=1)
        return nearest.view(batch, rows, columns)

    def _unify_flat(self, pixels: torch.Tensor, codes: NDArray[np.int64]) -> None:
        """Overwrite, in `codes` (B, h, w), those of the flat patches of `pixels` (B, 3, H, W)."""
        flat, colours = flat_patches(pixels, self.downsampling)
        found = [tuple(colour) for colour in colours.permute(0, 2, 3, 1)[flat].tolist()]
        new = sorted(set(found) - self._code_of_colour.keys())
        width, height = self.resolution
        pictures = torch.tensor(new).view(-1, 3, 1, 1).expand(-1, -1, height, width) / 127.5 - 1.0
        for start in range(0, len(new), 64):
            part = pictures[start : start + 64].to(self.model.device, self.model.dtype)
            middle = self._nearest(part)[:, height // self.downsampling // 2, width // self.downsampling // 2]
            self._code_of_colour |= dict(zip(new[start : start + 64], middle.tolist(), strict=True))
        codes[flat.numpy()] = [self._code_of_colour[colour] for colour in found]

    def _decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, h, w) codes → (B, 3, h·f, w·f) pixels, nominally in [-1, 1]."""
        folded: torch.Tensor = self.model.decode(self.vectors(codes), force_not_quantize=True).sample
        return F.pixel_shuffle(folded, self.stem)


def flat_patches(pixels: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which patches have one colour, and which colour each has.

    Args:
        pixels: (B, 3, H, W) in [-1, 1], on the CPU.
        size: side of a patch in pixels.

    Returns:
        (B, H/size, W/size) bool, and (B, 3, H/size, W/size) mean colours, int64 in 0…255.
    """
    patches = pixels.unfold(2, size, size).unfold(3, size, size)
    spread = (patches.amax((-1, -2)) - patches.amin((-1, -2))).amax(1)
    colours = ((patches.mean((-1, -2)) + 1.0) * 127.5).round().long()
    return spread <= FLAT, colours


def fold(pixels: torch.Tensor, stem: int) -> torch.Tensor:
    """(B, 3, H, W) → (B, 3·stem², H/stem, W/stem), in the memory format of `pixels`; undone by `pixel_shuffle`."""
    if stem == 1:
        return pixels
    memory_format = torch.channels_last if pixels.is_contiguous(memory_format=torch.channels_last) else None
    return F.pixel_unshuffle(pixels, stem).contiguous(memory_format=memory_format or torch.contiguous_format)


def _batches(shapes: Sequence[tuple[int, ...]], step: int) -> list[list[int]]:
    """Indices of equal `shapes` (in units of `step` pixels) together, each batch within `PIXELS_PER_BATCH`."""
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        groups[shape].append(index)
    batches = []
    for shape, indices in groups.items():
        count = max(1, PIXELS_PER_BATCH // (shape[0] * shape[1] * step * step))
        batches += [indices[start : start + count] for start in range(0, len(indices), count)]
    return batches
