"""A tokenised set in a few numbers: how much there is, how long and how large it is, how well the codebook is used.

rich.print(summary_table(summarize(TokenizedSet("data/emoji"))))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.store import Kind


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summarize` finds.

    Args:
        kind, records, images, sizes, rejected: as in the manifest.
        characters: mean, median and longest text of a record.
        codes: how many codes the images have in all.
        codes_used: how many different codes occur.
        num_codes: size of the codebook, 0 for text.
        perplexity: exp of the entropy of the codes' frequencies: `num_codes` if all are equally frequent, 1 if there is
            only one.
    """

    kind: Kind
    records: int
    images: int
    sizes: Mapping[str, int]
    rejected: Mapping[str, int]
    characters: tuple[float, float, int]
    codes: int
    codes_used: int
    num_codes: int
    perplexity: float


def summarize(data: TokenizedSet) -> Summary:
    """Read all of `data` once."""
    manifest = data.manifest
    num_codes = manifest.image_tokenizer.num_codes if manifest.image_tokenizer else 0
    counts = np.zeros(num_codes, dtype=np.int64)
    for codes in data.codes():
        counts += np.bincount(codes, minlength=num_codes)
    lengths = np.fromiter(data.text_lengths(), dtype=np.int64, count=len(data))
    return Summary(
        kind=manifest.kind,
        records=manifest.records,
        images=manifest.images,
        sizes=manifest.sizes,
        rejected=manifest.rejected,
        characters=(float(lengths.mean()), float(np.median(lengths)), int(lengths.max())),
        codes=int(counts.sum()),
        codes_used=int((counts > 0).sum()),
        num_codes=num_codes,
        perplexity=perplexity(counts),
    )


def perplexity(counts: NDArray[np.int64]) -> float:
    """exp of the entropy of `counts`, in [1, len(counts)]; 0 where nothing was counted."""
    total = counts.sum()
    if not total:
        return 0.0
    shares = counts[counts > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def summary_table(summary: Summary) -> Table:
    """`summary` as a table for the terminal."""
    mean, median, longest = summary.characters
    table = Table(title=f"tokenised set of kind {summary.kind}", show_header=False)
    table.add_row("records", f"{summary.records:,}")
    table.add_row("characters of text", f"mean {mean:.0f}, median {median:.0f}, longest {longest:,}")
    if summary.images:
        sizes = ", ".join(f"{count:,} of {size}" for size, count in summary.sizes.items())
        table.add_row("images", f"{summary.images:,} ({sizes} pixels)")
        table.add_row("codes", f"{summary.codes:,}, {summary.codes_used:,} of {summary.num_codes:,} different ones")
        table.add_row("code perplexity", f"{summary.perplexity:,.0f}")
    rejected = ", ".join(f"{count:,} × {category}" for category, count in summary.rejected.items())
    table.add_row("rejected", rejected or "none")
    return table
