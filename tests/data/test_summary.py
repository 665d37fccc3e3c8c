from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.summary import perplexity, summarize, summary_table


def test_perplexity_on_closed_forms():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([0, 9])) == 1
    assert perplexity(np.array([], dtype=int)) == 0
    assert perplexity(np.array([3, 1])) == pytest.approx(4 / 3**0.75)


def test_summary_of_pairs(sets):
    pairs = TokenizedSet(sets["pairs"])
    summary = summarize(pairs)
    codes = np.concatenate([pairs[n].codes.reshape(-1) for n in range(len(pairs))])
    assert (summary.kind, summary.records, summary.images, summary.codes) == ("pairs", 23, 23, codes.size)
    assert summary.codes_used == len(np.unique(codes))
    assert summary.perplexity == pytest.approx(perplexity(np.unique(codes, return_counts=True)[1]))
    lengths = [len(pairs[n].text) for n in range(len(pairs))]
    assert summary.characters == pytest.approx((np.mean(lengths), np.median(lengths), max(lengths)))


def test_summaries_as_tables(sets):
    console = Console(file=io.StringIO(), width=120)
    for kind in ("text", "chat"):
        console.print(summary_table(summarize(TokenizedSet(sets[kind]))))
    text, chat = console.file.getvalue().split("set of kind chat")
    assert "images" not in text
    assert "14 (14 of 32x32 pixels)" in chat
    assert "56, " in chat
