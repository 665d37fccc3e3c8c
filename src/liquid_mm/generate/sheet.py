"""Many pictures on one page, each with its caption under it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN, LINE, FONT_SIZE = 12, 17, 14


def contact_sheet(
    pictures: Sequence[tuple[Image.Image, str]], columns: int = 4, side: int = 160, lines: int = 2
) -> Image.Image:
    """Lay out `pictures`, (image, caption) pairs, row by row on white.

    Args:
        pictures: at least one; small pictures are enlarged without smoothing, so that every pixel stays visible.
        columns: pictures per row.
        side: pixels of the square each is fitted into.
        lines: lines kept for each caption.
    """
    cell, height = side + MARGIN, side + MARGIN + lines * LINE
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * cell + MARGIN, rows * height + MARGIN), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for index, (image, caption) in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * cell, MARGIN + row * height
        scale = side / max(image.size)
        resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        fitted = image.resize((round(image.width * scale), round(image.height * scale)), resample)
        sheet.paste(fitted, (left + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
        wrapped = textwrap.wrap(caption, width=side // 7, max_lines=lines, placeholder=" …")
        canvas.multiline_text((left, top + side + 2), "\n".join(wrapped), fill="black", font=font)
    return sheet
