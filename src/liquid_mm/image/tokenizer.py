"""What the rest of the project knows of an image tokenizer: pictures in, grids of codes out, and back.

    tokenizer.encode([image 128×64])  →  [codes of shape (rows 8, columns 16)]      with downsampling 8
    tokenizer.decode([codes])         →  [image 128×64]

Any object with these members will do; `image.vqgan.VQGAN` is the one that ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image


@runtime_checkable
class ImageTokenizer(Protocol):
    """Images ↔ grids of discrete codes."""

    @property
    def num_codes(self) -> int:
        """Size of the codebook; codes are in [0, num_codes)."""

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""

    @property
    def resolution(self) -> tuple[int, int]:
        """(width, height) in pixels it was trained on; other multiples of `downsampling` work too."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever the same picture could get other codes."""

    @property
    def decoder_fingerprint(self) -> str:
        """16 hex digits that change whenever the same codes could give another picture."""

    @property
    def codebook(self) -> torch.Tensor:
        """The code vectors: float32 on the CPU, shape (num_codes, dim)."""

    def encode(self, images: Sequence[Image.Image]) -> list[NDArray[np.int64]]:
        """One (rows, columns) grid of codes per image; sizes may differ, sides are multiples of `downsampling`."""

    def decode(self, grids: Sequence[NDArray[np.integer[Any]]]) -> list[Image.Image]:
        """One RGB image per grid of codes; shapes may differ."""

    def save(self, folder: str | Path) -> None:
        """Write everything needed to load it again."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageTokenizer:
        """Move to a device; return self."""
