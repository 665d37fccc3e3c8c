"""How well pictures survive the image tokenizer: PSNR, SSIM, Fréchet distance, codes used, perplexity, bits per pixel.

The data are any folder of pictures, each cut to the model's resolution. Reconstruction bounds what the model can draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.evaluate.data import DataSource
from liquid_mm.evaluate.features import folds_of, load_features
from liquid_mm.evaluate.frechet import frechet_interval
from liquid_mm.evaluate.pictures import find_pictures, load_picture, save_png
from liquid_mm.evaluate.protocol import (
    Context,
    Example,
    Prediction,
    Scored,
    Table,
    Task,
    Value,
    batches,
    mean_of,
)
from liquid_mm.image.preprocess import center_crop_resize


class TokenizerTask(Task):
    """Reconstruct pictures through their codes."""

    name = "tokenizer"
    kind = "tokenizer"
    pictures = ("original", "reconstruction")
    data = DataSource(
        "tokenizer",
        "pictures (in subfolders too), such as the 50,000 of ImageNet's validation set",
        "ImageNet: research only, by its terms of access; your own pictures: yours",
        command="mkdir -p DIR  # and put pictures there",
    )

    def examples(self, context: Context) -> Sequence[Example]:
        """Every picture in the folder, in the order of their paths."""
        paths = find_pictures(context.data)
        if not paths:
            raise UserError(f"{context.data} holds no pictures.")
        names = [path.relative_to(context.data).as_posix() for path in paths]
        return [
            Example(name, {"picture": name}, i, path) for i, (name, path) in enumerate(zip(names, paths, strict=True))
        ]

    def predict(self, model: Any, examples: Sequence[Example], context: Context) -> Iterator[Prediction]:
        """Codes of each picture, and what they decode to; both pictures are kept as PNG."""
        vocabulary = model.vocabulary
        for batch in batches(examples, context.batch_size):
            originals = [center_crop_resize(load_picture(example.image), vocabulary.resolution) for example in batch]
            grids = model.encode_images(originals)
            for example, before, after, grid in zip(batch, originals, model.decode_images(grids), grids, strict=True):
                name = f"{example.index:06d}.png"
                yield {
                    "id": example.id,
                    "inputs": dict(example.inputs),
                    "original": save_png(before, context.folder, f"original/{name}"),
                    "reconstruction": save_png(after, context.folder, f"reconstruction/{name}"),
                    "codes": grid.tolist(),
                    "num_codes": vocabulary.num_codes,
                    "downsampling": vocabulary.downsampling,
                }

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """PSNR and SSIM per picture; code statistics and the Fréchet distance of the set."""

        def pictures(field: str) -> Iterator[Image.Image]:
            return (load_picture(context.folder / prediction[field]) for prediction in predictions)

        rows = [
            {"id": prediction["id"], "psnr": psnr(before, after), "ssim": ssim(before, after)}
            for prediction, before, after in zip(
                predictions, pictures("original"), pictures("reconstruction"), strict=True
            )
        ]
        whole = code_statistics(predictions)
        if len(predictions) > 1:
            net = load_features(context.settings.features, context.device)
            sides = (folds_of(pictures(field), net) for field in ("original", "reconstruction"))
            distance, bounds = frechet_interval(*sides)
            whole["rfid"] = Value(distance, len(predictions), bounds=bounds)
            return Scored(rows, whole, (f"rfid: Fréchet distance over {net.name}",))
        return Scored(rows, whole)

    def summarise(self, table: Table) -> dict[str, Value]:
        """Mean PSNR in dB and mean SSIM."""
        return {"psnr": mean_of(table, "psnr"), "ssim": mean_of(table, "ssim")}


def psnr(before: Image.Image, after: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB; 100 dB where they are equal."""
    error = float(((np.asarray(before, np.float64) - np.asarray(after, np.float64)) ** 2).mean())
    return min(100.0, 10 * math.log10(255.0**2 / error)) if error else 100.0


def ssim(before: Image.Image, after: Image.Image) -> float:
    """Structural similarity (Wang et al. 2004: 11×11 Gaussian window, σ 1.5) of two RGB pictures, by torchmetrics."""
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise UserError("SSIM needs another package: run `pip install torchmetrics`.") from error
    first, second = (
        torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None] for image in (before, after)
    )
    similarity: Any = structural_similarity_index_measure(second, first, data_range=255.0)
    return float(similarity)


def code_statistics(predictions: Sequence[Prediction]) -> dict[str, Value]:
    """Share of codes used, perplexity of their use, and bits per pixel: of fixed-length codes, and at their entropy."""
    n, num_codes, side = len(predictions), predictions[0]["num_codes"], predictions[0]["downsampling"]
    counts = np.zeros(num_codes, dtype=np.int64)
    for prediction in predictions:
        counts += np.bincount(np.ravel(prediction["codes"]), minlength=num_codes)
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    return {
        "codes_used": Value(float((counts > 0).mean()), n),
        "perplexity": Value(2.0**entropy, n),
        "bits_per_pixel": Value(math.log2(num_codes) / side**2, n),
        "bits_per_pixel_entropy": Value(entropy / side**2, n),
    }
