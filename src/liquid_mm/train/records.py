"""What the batch of a bad step held: every document, its place in its set, its loss, its text as the model reads it.

    [{"set": "data/pairs", "record": 17, "id": "1f34e/3d", "task": "image to text", "tokens": 85, "loss": None,
      "text": "<bos><boi>[64 codes]<eoi>The caption … a red apple<eos>"}, …]

`liquid inspect RUN/bad/step-N.json -c CHECKPOINT` shows them again. The loss is the mean over what the document
teaches, None where it is not a finite number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.mixture import CAPTION, CODE, Batch
from liquid_mm.vocab.prompts import ImageSpan, Renderer
from liquid_mm.vocab.records import Rendered


def describe(
    batch: Batch, losses: NDArray[np.floating[Any]], renderer: Renderer, sets: Sequence[Path]
) -> list[dict[str, Any]]:
    """The documents of `batch`, row by row.

    Args:
        batch: of this process.
        losses: (B, T), what each token cost; 0 where nothing is learnt.
        renderer: the model's.
        sets: the mixture's tokenised sets, by number of source.
    """
    opened = [TokenizedSet(path) for path in sets]
    arrays = cast(Mapping[str, NDArray[Any]], batch)
    found = []
    for row, segments in enumerate(batch["segment_ids"]):
        for number in range(1, int(segments.max()) + 1):
            here = segments == number
            document = {name: values[row][here] for name, values in arrays.items()}
            source, record = int(document["source"][0]), int(document["record"][0])
            learnt = document["loss_mask"]
            # The first token of a document is predicted from nothing.
            loss = float(losses[row][here].sum() / max(1, learnt[1:].sum()))
            found.append(
                {
                    "set": str(sets[source]),
                    "record": record,
                    "id": opened[source].id(record),
                    "task": _task(document["modality"][learnt]),
                    "tokens": len(learnt),
                    "loss": loss if math.isfinite(loss) else None,
                    "text": _text(Rendered(document["ids"], learnt), renderer),
                }
            )
    return found


def worst_first(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`documents` by their loss: those without a finite one, then from high to low."""
    return sorted(documents, key=lambda document: -math.inf if document["loss"] is None else -document["loss"])


def _task(modality: NDArray[np.int8]) -> str:
    kinds = set(modality.tolist())
    return {frozenset({CODE}): "text to image", frozenset({CAPTION}): "image to text"}.get(frozenset(kinds), "text")


def _text(rendered: Rendered, renderer: Renderer) -> str:
    pieces = renderer.segments(rendered)
    return "".join(f"[{p.num_codes} codes]" if isinstance(p, ImageSpan) else p.text for p in pieces)
