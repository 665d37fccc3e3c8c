"""How well pictures survive an image tokenizer: numbers, and a sheet of before and after."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from liquid_mm.image.dataset import ImageFolder
from liquid_mm.image.preprocess import to_images
from liquid_mm.image.vqgan import VQGAN


@dataclasses.dataclass(frozen=True)
class Report:
    """PSNR in dB, mean absolute error in levels, share of codes used and their perplexity, over so many pictures."""

    psnr: float
    l1: float
    codes_used: float
    perplexity: float
    pictures: int


@torch.inference_mode()
def evaluate(tokenizer: VQGAN, batches: DataLoader[torch.Tensor]) -> Report:
    """Reconstruct every picture of `batches` (pixels in [-1, 1]) through its codes, as 8-bit images, and measure."""
    psnr: list[float] = []
    error: list[float] = []
    counts = np.zeros(tokenizer.num_codes, dtype=np.int64)
    for pixels in batches:
        originals = to_images(pixels)
        grids = tokenizer.encode(originals)
        for grid, before, after in zip(grids, originals, tokenizer.decode(grids), strict=True):
            difference = np.asarray(before, np.float64) - np.asarray(after, np.float64)
            psnr.append(10.0 * math.log10(255.0**2 / max(float((difference**2).mean()), 1e-10)))
            error.append(float(np.abs(difference).mean()))
            counts += np.bincount(grid.reshape(-1), minlength=tokenizer.num_codes)
    share = counts[counts > 0] / counts.sum()
    return Report(
        psnr=float(np.mean(psnr)),
        l1=float(np.mean(error)),
        codes_used=float((counts > 0).mean()),
        perplexity=float(np.exp(-(share * np.log(share)).sum())),
        pictures=len(psnr),
    )


def comparison_grid(tokenizer: VQGAN, paths: list[Path], size: tuple[int, int], columns: int = 8) -> Image.Image:
    """Pictures and, under each row of them, what their codes give back."""
    originals = [image for path in paths for image in to_images(ImageFolder([path], size)[0][None])]
    results = tokenizer.decode(tokenizer.encode(originals))
    rows = math.ceil(len(originals) / columns)
    sheet = Image.new("RGB", (columns * size[0], 2 * rows * size[1]), "white")
    for index, (before, after) in enumerate(zip(originals, results, strict=True)):
        row, column = divmod(index, columns)
        sheet.paste(before, (column * size[0], 2 * row * size[1]))
        sheet.paste(after, (column * size[0], (2 * row + 1) * size[1]))
    return sheet
