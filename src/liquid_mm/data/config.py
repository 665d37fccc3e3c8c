"""Settings of what training reads; `mixture` builds it.

sources:
  - {path: data/emoji}
  - {path: data/stories, weight: 0.5}
seq_len: 512
batch_size: 8
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from liquid_mm.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class SourceConfig(Config):
    """One tokenised set of the mixture.

    Args:
        path: a folder written by `liquid tokenize`.
        weight: share of records drawn from it, relative to the other sources' weights.
        reversal: share of its pairs trained as image to text (paper section 3.2: 0.2).
        unconditional: share of its text-to-image samples without their caption (paper section 3.2: 0.1).
        paraphrase: draw the instruction from several wordings, or always take the canonical one.
        epochs: how often it may be read, 0.5 for its first half; None for as often as the training lasts. Once it is
            used up, the other sources go on in the proportion of their weights.
    """

    path: Path
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    reversal: Share = 0.2
    unconditional: Share = 0.1
    paraphrase: bool = True
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class MixtureConfig(Config):
    """What training reads.

    Args:
        sources: at least one tokenised set; documents, pairs and conversations may be mixed.
        seq_len: tokens of a row.
        batch_size: rows of a batch, over all ranks together.
        seed: decides order, tasks and instructions.
        workers: threads that prepare rows ahead of the training; 0 prepares them in between. Rows do not depend on it.
    """

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    seq_len: Annotated[int, Field(ge=2)]
    batch_size: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 1
