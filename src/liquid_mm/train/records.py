"""What a batch holds, for a person to look at: the texts of its rows as the model reads them.

One list for each row, in it one entry for each document:

    [[{"text": "<bos>a red apple Generate an image …<boi>[64 codes]<eoi><eos>", "tokens": 85}, …], …]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from liquid_mm.data.mixture import Batch
from liquid_mm.vocab.prompts import ImageSpan, Renderer
from liquid_mm.vocab.records import Rendered


def describe(batch: Batch, renderer: Renderer) -> list[list[dict[str, Any]]]:
    """The documents of each row of `batch`, in order."""
    rows = []
    for ids, mask, segments in zip(batch["ids"], batch["loss_mask"], batch["segment_ids"], strict=True):
        numbers = range(1, int(segments.max()) + 1)
        rows.append([_document(Rendered(ids[here], mask[here]), renderer) for here in (segments == n for n in numbers)])
    return rows


def _document(rendered: Rendered, renderer: Renderer) -> dict[str, Any]:
    pieces = renderer.segments(rendered)
    text = "".join(f"[{p.num_codes} codes]" if isinstance(p, ImageSpan) else p.text for p in pieces)
    return {"text": text, "tokens": int(np.size(rendered.ids))}
