"""Pictures for training an image tokenizer: folders and JSONL lists → a torch data set of pixel tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset

from liquid_mm.errors import UserError
from liquid_mm.image import preprocess

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def list_images(sources: Iterable[str | Path]) -> list[Path]:
    """Every picture named by `sources`, once, in a stable order.

    A source is a folder (searched at any depth), an image file, or a JSONL file whose records have an `image` path,
    relative to that file.

    Raises:
        UserError: a source does not exist, a JSONL line is not a record with `image`, or there is no picture at all.
    """
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            found.update(dict.fromkeys(sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)))
        elif source.suffix == ".jsonl" and source.is_file():
            found.update(dict.fromkeys(_from_jsonl(source)))
        elif source.is_file():
            found[source] = None
        else:
            raise UserError(f"there is no folder, image or JSONL file {source}.")
    if not found:
        raise UserError(f"no pictures found in {', '.join(map(str, sources))}.")
    return list(found)


def _from_jsonl(path: Path) -> list[Path]:
    images = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                images.append(path.parent / json.loads(line)["image"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: expected a JSON record with an 'image' path.") from error
    return images


class ImageFolder(Dataset[torch.Tensor]):
    """Pictures cropped to `size` = (width, height), as float32 (3, H, W) in [-1, 1]; optionally mirrored at random."""

    def __init__(self, paths: list[Path], size: tuple[int, int], *, flip: bool = False) -> None:
        self.paths, self.size, self.flip = paths, size, flip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = preprocess.center_crop_resize(preprocess.flatten(preprocess.open_image(self.paths[index])), self.size)
        if self.flip and torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return preprocess.to_tensor([image])[0]
