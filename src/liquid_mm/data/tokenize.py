"""Turn source records into a tokenised set: images become codes once, so that training never runs the image tokenizer.

    read -> batches -> BatchEncoder: open, check, crop, encode -> SetWriter: Arrow shards
                                       \\-> rejects.jsonl

    tokenize("pictures/", image_tokenizer, "data/pictures")

Training images follow the paper's rule: one whose longer side is over twice the shorter is left out; the others have
their shorter side resized to the target and are cropped at the centre. Pictures a person shows in a conversation are
padded to a square of the target's shorter side instead, so that nothing is cut away. What cannot be used is listed in
`rejects.jsonl` and counted, never lost in silence. Memory does not grow with the set: one batch of images and
`store.BATCH_ROWS` rows are held.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from liquid_mm.data.records import ChatEntry, Entry, ImageRef, PairEntry, Reject, TextEntry, Unusable
from liquid_mm.data.sources import Source, read
from liquid_mm.data.store import ImageTokenizerInfo, Kind, Manifest, SetWriter, pack_codes
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir
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
KINDS: dict[type, Kind] = {TextEntry: "text", PairEntry: "pairs", ChatEntry: "chat"}

T = TypeVar("T")


def tokenize(
    source: Source,
    image_tokenizer: ImageTokenizer | None,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    max_rejects: float = 0.05,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Read `source`, encode its images, and write a tokenised set to the folder `out`.

    A set holds records of one kind; the first usable record decides which, and records of another kind are rejected.

    Args:
        source: what `sources.read` takes: a file, a folder, a Hub name, or dicts.
        image_tokenizer: encodes the images; None for a source of text only.
        out: a folder that does not exist yet; it appears whole or not at all.
        size: (width, height) in pixels that images are cropped to; by default `image_tokenizer.resolution`.
        batch_size: records whose images are encoded together.
        max_rejects: share of records, in [0, 1], that may be left out; above it the set is written all the same, and
            a `UserError` follows.
        max_pixels: an image of more pixels is rejected without being decoded.
        progress: called after each batch with the numbers of records kept and rejected so far.

    Returns:
        The manifest, as written to `out/manifest.json`.

    Raises:
        UserError: the source cannot be read, no record is usable, too many were rejected, or an option is out of range.
    """
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max_rejects is {max_rejects}: it is a share, between 0 and 1.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1.")
    encoder = BatchEncoder(image_tokenizer, size=size, max_pixels=max_pixels)
    entries = read(source)
    out = Path(out)
    grids: Counter[tuple[int, ...]] = Counter()
    with atomic_dir(out) as part:
        with SetWriter(part) as writer:
            for batch in _batched(entries, batch_size):
                for item in encoder(batch):
                    _write(item, writer, grids)
                if progress:
                    progress(writer.records, sum(writer.rejected.values()))
        manifest = _manifest(writer, grids, image_tokenizer, part)
    _check_share(manifest, max_rejects, out)
    return manifest


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An entry and the codes of its images, in order of reading."""

    entry: Entry
    grids: tuple[Grid, ...]


class BatchEncoder:
    """Encodes the images of a batch of entries; what cannot be used comes out as a `Reject`.

    It holds no state between batches, so batches may be encoded anywhere in any order.

    Args:
        image_tokenizer: None where no entry has an image.
        size: (width, height) in pixels; None takes the tokenizer's `resolution`.
        max_pixels: largest image that is decoded.

    Raises:
        UserError: `size` does not fit the image tokenizer, or its codes do not fit 16 bits.
    """

    def __init__(
        self, image_tokenizer: ImageTokenizer | None, *, size: tuple[int, int] | None, max_pixels: int
    ) -> None:
        self.image_tokenizer, self.max_pixels = image_tokenizer, max_pixels
        if image_tokenizer is None:
            return
        if image_tokenizer.num_codes > MAX_CODES:
            raise UserError(
                f"the image tokenizer has {image_tokenizer.num_codes} codes: sets store at most {MAX_CODES}."
            )
        self.size = size or image_tokenizer.resolution
        step = image_tokenizer.downsampling
        if any(side < step or side % step for side in self.size):
            raise UserError(
                f"image size {self.size[0]}x{self.size[1]} does not fit the image tokenizer: "
                f"width and height must be positive multiples of {step} pixels."
            )

    def __call__(self, entries: Sequence[Entry | Reject]) -> list[Encoded | Reject]:
        """Encode `entries`; the order is kept.

        Raises:
            UserError: an entry has an image and there is no image tokenizer.
        """
        opened = [self._open(entry) for entry in entries]
        images = [image for _, pictures in opened for image in pictures]
        grids: Iterator[Grid] = iter(self._encode(images))
        return [
            entry if isinstance(entry, Reject) else Encoded(entry, tuple(itertools.islice(grids, len(pictures))))
            for entry, pictures in opened
        ]

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
        try:
            picture = flatten(open_image(image, max_pixels=self.max_pixels))
        except UserError as error:
            raise Unusable("image cannot be used", where, str(error)) from error
        except (ValueError, EOFError, struct.error, zlib.error) as error:  # what Pillow's plugins raise on odd files
            raise Unusable("image cannot be used", where, f"it is damaged: {error}.") from error
        if shown:
            return pad_to_square(picture, min(self.size))
        short, long = sorted(picture.size)
        if long > MAX_ASPECT * short:
            detail = f"{picture.width}x{picture.height} pixels: the longer side is over {MAX_ASPECT:g} × the shorter."
            raise Unusable("image too narrow", where, detail)
        return center_crop_resize(picture, self.size)


def _images(entry: Entry) -> Iterator[tuple[ImageRef, bool]]:
    """Images of `entry` in order of reading, and whether they are shown to the model (not drawn by it)."""
    if isinstance(entry, PairEntry):
        yield entry.image, False
    elif isinstance(entry, ChatEntry):
        for message in entry.messages:
            yield from ((part, message.role != "assistant") for part in message.parts if not isinstance(part, str))


def _write(item: Encoded | Reject, writer: SetWriter, grids: Counter[tuple[int, ...]]) -> None:
    if isinstance(item, Reject):
        writer.reject(item)
        return
    kind = KINDS[type(item.entry)]
    if writer.kind not in (None, kind):
        reason = f"the set is of kind {writer.kind}, this record of kind {kind}: tokenise them apart."
        writer.reject(Reject(item.entry.where, "another kind of record", reason))
        return
    writer.add(kind, {"id": item.entry.id, **_columns(item)})
    grids.update(grid.shape for grid in item.grids)


def _columns(item: Encoded) -> dict[str, Any]:
    """The columns of its kind (`store.SCHEMAS`), the id apart."""
    if isinstance(item.entry, TextEntry):
        return {"text": item.entry.text}
    if isinstance(item.entry, PairEntry):
        (grid,) = item.grids
        rows, columns = grid.shape
        return {"text": item.entry.text, "codes": pack_codes(grid), "rows": rows, "columns": columns}
    messages = [{"role": m.role, "content": [_part(part) for part in m.parts]} for m in item.entry.messages]
    return {
        "messages": json.dumps(messages, ensure_ascii=False),
        "codes": [pack_codes(grid) for grid in item.grids],
        "rows": [grid.shape[0] for grid in item.grids],
        "columns": [grid.shape[1] for grid in item.grids],
    }


def _part(part: str | ImageRef) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _manifest(
    writer: SetWriter, grids: Counter[tuple[int, ...]], image_tokenizer: ImageTokenizer | None, folder: Path
) -> Manifest:
    if writer.kind is None:
        lines = (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
        first = json.loads(lines[0]) if lines else None
        why = f" The first: {first['where']}: {first['reason']}" if first else ""
        raise UserError(f"the source has no usable record ({len(lines)} rejected).{why}")
    info = _info(image_tokenizer) if image_tokenizer and grids else None
    step = info.downsampling if info else 1
    manifest = Manifest(
        kind=writer.kind,
        records=writer.records,
        images=grids.total(),
        sizes={f"{columns * step}x{rows * step}": count for (rows, columns), count in sorted(grids.items())},
        rejected=dict(sorted(writer.rejected.items())),
        shards=writer.shards,
        image_tokenizer=info,
    )
    manifest.write(folder)
    return manifest


def _info(image_tokenizer: ImageTokenizer) -> ImageTokenizerInfo:
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
            f"allowed: {reasons}. The other {manifest.records} are in {out}; {out / 'rejects.jsonl'} lists the reasons."
        )
