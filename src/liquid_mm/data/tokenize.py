"""Turn source records into a tokenised set: images become codes once, so that training never runs the image tokenizer.

    pieces -> entries -> windows -> Stage: open, check, crop, encode -> SetWriter: Arrow shards, rejects, progress
                                    (in this process, or on Ray's actors)

    tokenize("pictures/", image_tokenizer, "data/pictures", sizes=[(512, 512), (768, 512), (512, 768)])

Training images follow the paper's rule: one whose longer side is over twice the shorter is left out; the others are
scaled to cover the allowed size whose aspect ratio is nearest and cropped at the centre. Pictures a person shows in a
conversation are padded to a square instead, so that nothing is cut away. What cannot be used is listed in
`rejects.jsonl` and counted, never lost in silence. Memory does not grow with the set: one window of records and
`writer.BATCH_ROWS` rows are held.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from liquid_mm.data.records import ChatEntry, Entry, ImageRef, PairEntry, Reject, Unusable
from liquid_mm.data.rows import Row, row
from liquid_mm.data.sources import Piece, Position, Source, entries, pieces
from liquid_mm.data.store import ImageTokenizerInfo, Manifest
from liquid_mm.data.urls import Url, read_bytes
from liquid_mm.data.writer import REJECTS, SetWriter
from liquid_mm.errors import UserError
from liquid_mm.files import disk_errors
from liquid_mm.image.preprocess import (
    MAX_ASPECT,
    MAX_PIXELS,
    center_crop_resize,
    flatten,
    open_image,
    pad_to_square,
)
from liquid_mm.image.tokenizer import ImageTokenizer
from liquid_mm.vocab.vocabulary import Grid

MAX_CODES = 2**16  # codes are stored as uint16

Size = tuple[int, int]
"""(width, height) in pixels."""

T = TypeVar("T")


def tokenize(
    source: Source,
    image_tokenizer: ImageTokenizer | None,
    out: str | Path,
    *,
    sizes: Sequence[Size] = (),
    batch_size: int = 16,
    images: str | Path | None = None,
    max_rejects: float = 0.05,
    max_pixels: int = MAX_PIXELS,
    resume: bool = False,
    cluster: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Read `source`, encode its images, and write a tokenised set to the folder `out`.

    A set holds records of one kind; the first usable record decides which, and records of another kind are rejected.

    Args:
        source: what `sources.pieces` takes: a file, a folder, an address, a Hub name, or dicts.
        image_tokenizer: encodes the images; None for a source of text only.
        out: a folder that does not exist yet; it appears whole or not at all.
        sizes: (width, height) in pixels that images may be cropped to; by default `image_tokenizer.resolution` alone.
        batch_size: images of one size that are encoded together, on average.
        images: where relative image paths start; by default at the file they stand in.
        max_rejects: share of records, in [0, 1], that may be left out; above it the set is written all the same, and
            a `UserError` follows.
        max_pixels: an image of more pixels is rejected without being decoded.
        resume: go on with a run that was interrupted, if there is one.
        cluster: run the stage on Ray (`data.cluster`); the records of the set are the same, in the same order.
        workers: Ray actors; None takes one for each GPU of the cluster, or for each CPU if there is no GPU.
        progress: called with the numbers of records kept and rejected so far.

    Returns:
        The manifest, as written to `out/manifest.json`.

    Raises:
        UserError: the source cannot be read, no record is usable, too many were rejected, or an option is out of range.
    """
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max_rejects is {max_rejects}: it is a share, between 0 and 1.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1.")
    stage = Stage(image_tokenizer, sizes=sizes, max_pixels=max_pixels)
    parts = pieces(source, images)
    window = batch_size * max(1, len(sizes))  # so that as many of each size come together
    out = Path(out)
    with disk_errors(out), SetWriter(out, _settings(parts, stage), resume=resume) as writer:
        if cluster:
            from liquid_mm.data.cluster import run_on_ray

            done = run_on_ray(parts, writer.position, stage, window, workers)
        else:
            done = run(parts, writer.position, stage, window)
        for position, item in done:
            writer.write(item)
            writer.reached(position)
            if progress:
                progress(writer.records, writer.rejected.total())
        manifest = writer.publish(_info(image_tokenizer))
    _check_share(manifest, max_rejects, out)
    return manifest


def run(parts: Sequence[Piece], start: Position, stage: Stage, window: int) -> Iterator[tuple[Position, Row | Reject]]:
    """The rows of all records from `start` on, in order, each with the position behind it; `window` at a time."""
    for batch in batched(entries(parts, start), window):
        positions, found = zip(*batch, strict=True)
        yield from zip(positions, stage(found), strict=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class Stage:
    """Turns entries into rows: opens, checks, crops and encodes their images.

    What cannot be used comes out as a `Reject`. No state is kept between calls, so they may be made anywhere in any
    order: in this process or by actors of a cluster.

    Args:
        image_tokenizer: None where no entry has an image.
        sizes: (width, height) in pixels that images may get; empty for the tokenizer's `resolution`.
        max_pixels: largest image that is decoded.

    Raises:
        UserError: a size does not fit the image tokenizer, or its codes do not fit 16 bits.
    """

    def __init__(self, image_tokenizer: ImageTokenizer | None, *, sizes: Sequence[Size], max_pixels: int) -> None:
        self.image_tokenizer, self.max_pixels = image_tokenizer, max_pixels
        self.sizes: tuple[Size, ...] = tuple(sizes)
        if image_tokenizer is None:
            return
        self.sizes = self.sizes or (image_tokenizer.resolution,)
        # As generation looks at pictures (`Checkpoint.read_image`), unless that size is none of this set's.
        own = image_tokenizer.resolution
        self.shown_side = max(own) if own in self.sizes else min(self.sizes[0])
        if image_tokenizer.num_codes > MAX_CODES:
            raise UserError(
                f"the image tokenizer has {image_tokenizer.num_codes} codes: sets store at most {MAX_CODES}."
            )
        step = image_tokenizer.downsampling
        for width, height in self.sizes:
            if any(side < step or side % step for side in (width, height)):
                raise UserError(
                    f"image size {width}x{height} does not fit the image tokenizer: "
                    f"width and height must be positive multiples of {step} pixels."
                )

    def to(self, device: Any) -> Stage:
        """Move the image tokenizer to `device`; return self."""
        if self.image_tokenizer is not None:
            self.image_tokenizer = self.image_tokenizer.to(device)
        return self

    def __call__(self, found: Sequence[Entry | Reject]) -> list[Row | Reject]:
        """The rows of `found`, in order.

        Raises:
            UserError: an entry has an image and there is no image tokenizer.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and resizes outside Python's lock
            opened = list(pool.map(self._open, found))
        grids = iter(self._encode([image for _, pictures in opened for image in pictures]))
        step = self.image_tokenizer.downsampling if self.image_tokenizer else 1
        return [
            entry if isinstance(entry, Reject) else row(entry, tuple(itertools.islice(grids, len(pictures))), step)
            for entry, pictures in opened
        ]

    def nearest_size(self, width: int, height: int) -> Size:
        """The allowed size whose aspect ratio is nearest to that of a picture; the first of equally near ones."""
        aspect = math.log(width / height)
        return min(self.sizes, key=lambda size: round(abs(math.log(size[0] / size[1]) - aspect), 9))

    def _encode(self, images: Sequence[Image.Image]) -> list[Grid]:
        """Codes of `images`; equal pictures, such as one with several captions, are encoded once."""
        if self.image_tokenizer is None or not images:
            return []
        keys = [(image.size, image.tobytes()) for image in images]
        unique = dict(zip(keys, images, strict=True))
        codes = dict(zip(unique, self.image_tokenizer.encode(list(unique.values())), strict=True))
        return [codes[key] for key in keys]

    def _open(self, entry: Entry | Reject) -> tuple[Entry | Reject, list[Image.Image]]:
        if isinstance(entry, Reject):
            return entry, []
        try:
            return entry, [self._picture(image, shown, entry.where) for image, shown in _images(entry)]
        except Unusable as error:
            return Reject.of(error), []

    def _picture(self, image: ImageRef, shown: bool, where: str) -> Image.Image:
        if self.image_tokenizer is None:
            raise UserError(f"{where} has an image: an image tokenizer is needed to encode it.")
        content = _fetch(image.name, where) if isinstance(image, Url) else image
        try:
            picture = flatten(open_image(content, max_pixels=self.max_pixels))
        except UserError as error:
            raise Unusable("image cannot be used", where, str(error)) from error
        except (ValueError, EOFError, struct.error, zlib.error) as error:  # what Pillow's plugins raise on odd files
            raise Unusable("image cannot be used", where, f"it is damaged: {error}.") from error
        if shown:
            return pad_to_square(picture, self.shown_side)
        short, long = sorted(picture.size)
        if long > MAX_ASPECT * short:
            detail = f"{picture.width}x{picture.height} pixels: the longer side is over {MAX_ASPECT:g} × the shorter."
            raise Unusable("image too narrow", where, detail)
        return center_crop_resize(picture, self.nearest_size(*picture.size))


def _fetch(url: str, where: str) -> bytes:
    """A remote picture: one that is not there is that record's trouble, a failing network everybody's."""
    try:
        return read_bytes(url)
    except UserError as error:
        raise Unusable("image cannot be used", where, str(error)) from error
    except (OSError, asyncio.TimeoutError) as error:  # the latter is an OSError from Python 3.11 on
        raise UserError(
            f"{where}: {url} could not be fetched ({type(error).__name__}: {error}). What is done is kept: run the "
            f"same command with --resume."
        ) from error


def _images(entry: Entry) -> Iterator[tuple[ImageRef, bool]]:
    """Images of `entry` in order of reading, and whether they are shown to the model (not drawn by it)."""
    if isinstance(entry, PairEntry):
        yield entry.image, False
    elif isinstance(entry, ChatEntry):
        for message in entry.messages:
            yield from ((part, message.role != "assistant") for part in message.parts if not isinstance(part, str))


def _settings(parts: Sequence[Piece], stage: Stage) -> dict[str, Any]:
    """What decides the records of a set: an interrupted run goes on only if none of it changed."""
    names = "\n".join(f"{piece.name} {piece.folder}" for piece in parts)
    return {
        "the source": hashlib.sha256(names.encode()).hexdigest()[:16],
        "sizes": stage.sizes,
        "the image tokenizer": stage.image_tokenizer.fingerprint if stage.image_tokenizer else None,
        "max_pixels": stage.max_pixels,
    }


def _info(image_tokenizer: ImageTokenizer | None) -> ImageTokenizerInfo | None:
    if image_tokenizer is None:
        return None
    codebook = np.ascontiguousarray(image_tokenizer.codebook.numpy(), dtype="<f4")
    return ImageTokenizerInfo(
        fingerprint=image_tokenizer.fingerprint,
        codebook=hashlib.sha256(codebook.tobytes()).hexdigest()[:16],
        num_codes=image_tokenizer.num_codes,
        downsampling=image_tokenizer.downsampling,
    )


def _check_share(manifest: Manifest, max_rejects: float, out: Path) -> None:
    rejected = sum(manifest.rejected.values())
    total = rejected + manifest.records
    if rejected > max_rejects * total:
        reasons = ", ".join(f"{count} × {category}" for category, count in manifest.rejected.items())
        raise UserError(
            f"{rejected} of {total} records ({rejected / total:.1%}) were rejected, over the {max_rejects:.1%} "
            f"allowed: {reasons}. The other {manifest.records} are in {out}; {out / REJECTS} lists the reasons."
        )
