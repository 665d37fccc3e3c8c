"""The unified vocabulary as one frozen value: which ids are text, which are image codes, and what grids codes form.

    ids   0 … text_size-1 | code_offset … code_offset+num_codes-1
          text tokens       image codes (code k is id code_offset + k)
          (with <boi> <eoi> <unconditional> <bos> <eos> <pad> among them)

`code_offset` is the number of rows the embedding table had before it grew. It is stored in the checkpoint and never
derived from ``len(tokenizer)``: families such as Qwen 2.5 pad their table past the last text token.

An image of `width × height` pixels is a grid of `(height // downsampling, width // downsampling)` codes, row by row,
with no row separators (paper: image tokenizer).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liquid_mm.errors import UserError

Grid = NDArray[np.integer[Any]]
"""An image as codes: integers of shape (rows, columns), each in [0, num_codes)."""

BOI, EOI, UNCONDITIONAL = "<boi>", "<eoi>", "<unconditional>"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ranges, special ids and grid geometry of one Liquid model.

    Args:
        text_size: number of ids the text tokenizer may produce; ids in [text_size, code_offset) are padding rows.
        code_offset: id of image code 0; the size of the embedding table before it grew.
        num_codes: size of the image tokenizer's codebook.
        boi, eoi, unconditional: ids that open an image, close it, and stand for "no caption" in guidance.
        bos: id that starts every sequence, or None for families that have none.
        eos: id that ends a sequence.
        pad: id used for padding; never attended to.
        downsampling: pixels per code along each side.
        resolution: (width, height) in pixels of the images the model draws unless told otherwise.
    """

    text_size: int
    code_offset: int
    num_codes: int
    boi: int
    eoi: int
    unconditional: int
    bos: int | None
    eos: int
    pad: int
    downsampling: int
    resolution: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", tuple(self.resolution))
        if self.text_size > self.code_offset:
            raise UserError(f"code_offset {self.code_offset} lies inside the text ids 0…{self.text_size - 1}.")
        for name in ("boi", "eoi", "unconditional", "bos", "eos", "pad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.code_offset:
                raise UserError(f"special id {name}={value} is outside the text ids 0…{self.code_offset - 1}.")
        if len({self.boi, self.eoi, self.unconditional}) != 3:
            raise UserError("<boi>, <eoi> and <unconditional> must be three different ids.")
        self.grid(self.resolution)

    @property
    def size(self) -> int:
        """Rows of the embedding table: text, padding and codes."""
        return self.code_offset + self.num_codes

    @property
    def codes(self) -> range:
        """The ids of the image codes."""
        return range(self.code_offset, self.size)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of codes for an image of `size` = (width, height) pixels.

        Raises:
            UserError: a side is not a positive multiple of `downsampling`.
        """
        width, height = size
        step = self.downsampling
        if width < step or height < step or width % step or height % step:
            raise UserError(
                f"image size {width}x{height} does not fit the image tokenizer: "
                f"width and height must be positive multiples of {step} pixels."
            )
        return height // step, width // step

    def pixels(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(width, height) in pixels of a grid of (rows, columns) codes."""
        rows, columns = grid
        return columns * self.downsampling, rows * self.downsampling

    def to_ids(self, codes: Grid) -> NDArray[np.int64]:
        """Codes of any shape, row-major, as a flat array of token ids.

        Raises:
            UserError: a code lies outside [0, num_codes), as when data were made with another image tokenizer.
        """
        flat = np.asarray(codes).reshape(-1).astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= self.num_codes):
            raise UserError(
                f"image code {int(flat.max() if flat.max() >= self.num_codes else flat.min())} is outside "
                f"0…{self.num_codes - 1}: the codes were made by another image tokenizer."
            )
        return flat + self.code_offset

    def to_codes(self, ids: Any, grid: tuple[int, int]) -> NDArray[np.int64]:
        """A flat run of code ids as a (rows, columns) grid of codes in [0, num_codes)."""
        codes = np.asarray(ids, dtype=np.int64) - self.code_offset
        assert codes.size == grid[0] * grid[1], "not that grid"
        assert ((codes >= 0) & (codes < self.num_codes)).all(), "not an image"
        return codes.reshape(grid)

    def is_code(self, ids: Any) -> NDArray[np.bool_]:
        """Which of `ids` (array-like of any shape) are image codes."""
        array = np.asarray(ids)
        return (array >= self.code_offset) & (array < self.size)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable form; `from_json` reads it back."""
        return {**dataclasses.asdict(self), "resolution": list(self.resolution)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Vocabulary:
        """Read what `to_json` wrote, refusing missing and unknown fields by name."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(value) != fields:
            raise UserError(
                f"the stored vocabulary has missing fields {sorted(fields - set(value))} "
                f"and unknown fields {sorted(set(value) - fields)}."
            )
        return cls(**value)

    def fingerprint(self) -> str:
        """A short hash of every field: two models with equal fingerprints read each other's ids."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
