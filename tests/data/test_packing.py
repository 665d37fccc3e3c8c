from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquid_mm.data.packing import Rows, pack, plan


def padding(lengths, capacity) -> float:
    return 1 - sum(lengths) / (capacity * len(plan(lengths, capacity)))


@settings(deadline=None)
@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c), max_size=80), st.just(c))))
def test_every_example_goes_into_one_row_that_holds_it(problem):
    lengths, capacity = problem
    rows = plan(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < total <= capacity for total in sums)
    # No two rows could have been one.
    assert all(a + b > capacity for a, b in itertools.pairwise(sums))


def test_a_plan_worked_out_by_hand():
    assert plan([90, 600, 424, 40, 34], 1024) == [[1, 2], [0, 3, 4]]
    assert plan([8, 8, 8], 8) == [[0], [1], [2]]
    assert plan([3, 3, 3, 3, 3, 4], 10) == [[0, 5, 1], [2, 3, 4]]
    assert plan([], 10) == []


def mixed(rng: np.random.Generator, count: int) -> list[int]:
    """Lengths like those of the paper's mixture at sequence 1024: pairs of 64 and 256 codes, documents, windows."""
    kinds = rng.integers(0, 4, count)
    pairs = rng.normal(90, 8, count).clip(75, 130)
    large = rng.normal(290, 12, count).clip(270, 340)
    documents = np.exp(rng.normal(5.6, 0.8, count)).clip(5, 1024)
    return np.choose(kinds, [pairs, large, documents, np.full(count, 1024)]).astype(int).tolist()


def test_padding_is_under_two_percent():
    rng = np.random.default_rng(0)
    assert padding(mixed(rng, 2048), 1024) < 0.005
    assert padding(rng.normal(90, 8, 2048).astype(int).clip(75, 130).tolist(), 1024) < 0.015, "pairs alone"


@pytest.mark.parametrize("texts", [0.04, 0.5])
def test_padding_is_under_two_percent_on_lengths_like_the_emoji_set(texts):
    """Pairs of 76 to 120 tokens, documents of some 1,500 characters, in the shares of the recipe and half and half."""
    rng = np.random.default_rng(1)
    pairs = rng.normal(88, 7, 2048).clip(76, 120)
    documents = np.exp(rng.normal(5.9, 0.15, 2048)).clip(50, 1024)
    lengths = np.where(rng.random(2048) < texts, documents, pairs).astype(int).tolist()
    assert padding(lengths, 1024) < 0.02


def example(length: int, start: int) -> dict:
    return {
        "ids": np.arange(start, start + length),
        "loss_mask": np.arange(length) > 1,
        "modality": (np.arange(length) > 1).astype(np.int8),
        "source": start % 3,
        "record": start,
    }


def test_a_row_written_out():
    row = pack([example(3, 10), example(2, 20)], 7, pad=5)
    assert row["ids"].tolist() == [10, 11, 12, 20, 21, 5, 5]
    assert row["loss_mask"].tolist() == [False, False, True, False, False, False, False]
    assert row["positions"].tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert row["segment_ids"].tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert row["modality"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert row["source"].tolist() == [1, 1, 1, 2, 2, -1, -1]
    assert row["record"].tolist() == [10, 10, 10, 20, 20, -1, -1]


def test_rows_are_made_on_demand_in_shuffled_order():
    examples = [example(4, 10 * number) for number in range(30)]
    first, again, other = (Rows(examples, 4, 0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    starts = [row["ids"][0] for row in first]
    assert sorted(starts) == [10 * number for number in range(30)]
    assert starts == [row["ids"][0] for row in again]
    assert starts != [row["ids"][0] for row in other]
    assert [row["ids"][0] for row in first[2:5]] == starts[2:5]
    with pytest.raises(IndexError):
        first[30]


def test_what_fits_no_row_is_our_mistake():
    with pytest.raises(AssertionError, match="example 1 of 9 tokens does not fit 8"):
        plan([3, 9], 8)
