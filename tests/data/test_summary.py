from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from liquid_mm.data import summary as module
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.summary import perplexity, spread, summarize, summary_table


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
    np.testing.assert_array_equal(summary.code_counts, np.bincount(codes, minlength=8192))
    assert summary.codes_used == len(np.unique(codes))
    assert summary.characters.tolist() == [len(pairs[n].text) for n in range(len(pairs))]
    assert summary.ids is None


@pytest.mark.parametrize("kind", ["pairs", "text", "chat"])
def test_ids_are_those_the_model_reads(sets, renderer, kind):
    data = TokenizedSet(sets[kind])
    ids = summarize(data, renderer).ids
    rendered = [renderer.render(data[n]) for n in range(len(data))]
    assert ids.lengths.tolist() == [len(one) for one in rendered]
    assert ids.codes == {"pairs": 23 * 4, "text": 0, "chat": 7 * 8}[kind]
    assert ids.learnt == sum(one.loss_mask.sum() for one in rendered)


def test_a_large_set_is_rendered_in_part(sets, renderer, monkeypatch):
    monkeypatch.setattr(module, "RENDERED", 5)
    assert len(summarize(TokenizedSet(sets["pairs"]), renderer).ids.lengths) == 5
    assert spread(5, 23) == [0, 4, 9, 13, 18]
    assert spread(5, 3) == [0, 1, 2]
    assert spread(5, 0) == []


def test_summaries_as_tables(sets, renderer):
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(summarize(TokenizedSet(sets["text"]))))
    text = console.file.getvalue()
    assert "images" not in text
    assert "ids" not in text
    console.print(summary_table(summarize(TokenizedSet(sets["chat"]), renderer)))
    chat = console.file.getvalue().removeprefix(text)
    assert "14 (14 of 32x32 pixels)" in chat
    assert "56, " in chat
    shares = summarize(TokenizedSet(sets["chat"]), renderer).ids
    assert f"image {shares.codes / shares.lengths.sum():.1%}" in chat
