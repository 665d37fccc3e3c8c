"""A tokenised set in a few numbers: how much there is, how long and how large it is, how well the codebook is used.

rich.print(summary_table(summarize(TokenizedSet("data/emoji"))))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.examples import sized
from liquid_mm.data.store import Kind
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Record, TextToImage

RENDERED = 2000
"""Records that are rendered to count ids, spread evenly over the set: text tokenizers are slow."""


@dataclasses.dataclass(frozen=True)
class Ids:
    """What a model reads of a set, counted on a sample of its records.

    Args:
        lengths: ids of each record of the sample.
        codes: how many of all these ids are image codes.
        learnt: how many are targets.
    """

    lengths: NDArray[np.int64]
    codes: int
    learnt: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summarize` finds.

    Args:
        kind, records, images, sizes, rejected: as in the manifest.
        characters: characters of text in each record.
        code_counts: how often each code of the codebook occurs; empty for text.
        ids: what a model reads of it; None where no renderer was given.
    """

    kind: Kind
    records: int
    images: int
    sizes: Mapping[str, int]
    rejected: Mapping[str, int]
    characters: NDArray[np.int64]
    code_counts: NDArray[np.int64]
    ids: Ids | None

    @property
    def codes(self) -> int:
        """How many codes the images have in all."""
        return int(self.code_counts.sum())

    @property
    def codes_used(self) -> int:
        """How many different codes occur."""
        return int((self.code_counts > 0).sum())


def summarize(data: TokenizedSet, renderer: Renderer | None = None) -> Summary:
    """Read all of `data` once; with a model's `renderer`, also count the ids of up to `RENDERED` records."""
    manifest = data.manifest
    num_codes = manifest.image_tokenizer.num_codes if manifest.image_tokenizer else 0
    counts = np.zeros(num_codes, dtype=np.int64)
    for codes in data.codes():
        counts += np.bincount(codes, minlength=num_codes)
    return Summary(
        kind=manifest.kind,
        records=manifest.records,
        images=manifest.images,
        sizes=manifest.sizes,
        rejected=manifest.rejected,
        characters=np.fromiter(data.text_lengths(), dtype=np.int64, count=len(data)),
        code_counts=counts,
        ids=_ids(data, renderer) if renderer else None,
    )


def spread(count: int, total: int) -> list[int]:
    """At most `count` indices below `total`, evenly spaced."""
    return [number * total // min(count, total) for number in range(min(count, total))]


def perplexity(counts: NDArray[np.int64]) -> float:
    """exp of the entropy of `counts`, in [1, len(counts)]; 0 where nothing was counted."""
    total = counts.sum()
    if not total:
        return 0.0
    shares = counts[counts > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """`summary` as (name, value) in words."""
    rows = [("kind", summary.kind), ("records", f"{summary.records:,}")]
    rows.append(("characters of text", _spread_of(summary.characters)))
    if summary.images:
        sizes = ", ".join(f"{count:,} of {size}" for size, count in summary.sizes.items())
        rows.append(("images", f"{summary.images:,} ({sizes} pixels)"))
        different = f"{summary.codes_used:,} of {len(summary.code_counts):,} different ones"
        rows.append(("codes", f"{summary.codes:,}, {different}"))
        rows.append(("code perplexity", f"{perplexity(summary.code_counts):,.0f}"))
    if summary.ids is not None:
        total = int(summary.ids.lengths.sum())
        rows.append(("ids of a record", f"{_spread_of(summary.ids.lengths)} (of {len(summary.ids.lengths):,} records)"))
        share = summary.ids.codes / total
        rows.append(("ids by modality", f"image {share:.1%}, text {1 - share:.1%}"))
        rows.append(("ids learnt", f"{summary.ids.learnt / total:.1%}"))
    rejected = ", ".join(f"{count:,} × {category}" for category, count in summary.rejected.items())
    rows.append(("rejected", rejected or "none"))
    return rows


def summary_table(summary: Summary) -> Table:
    """`summary` as a table for the terminal."""
    table = Table(show_header=False)
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    return table


def _ids(data: TokenizedSet, renderer: Renderer) -> Ids:
    lengths, codes, learnt = [], 0, 0
    for index in spread(RENDERED, len(data)):
        record: Record = data[index]
        rendered = renderer.render(sized(record, renderer.vocabulary) if isinstance(record, TextToImage) else record)
        lengths.append(len(rendered))
        codes += int(renderer.vocabulary.is_code(rendered.ids).sum())
        learnt += int(rendered.loss_mask.sum())
    return Ids(np.array(lengths, dtype=np.int64), codes, learnt)


def _spread_of(values: NDArray[Any]) -> str:
    return f"mean {values.mean():,.0f}, median {np.median(values):,.0f}, longest {values.max():,}"
