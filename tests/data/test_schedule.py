from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquid_mm.data.schedule import Schedule

WEIGHTS = st.lists(st.floats(0.05, 20), min_size=1, max_size=5)


def limited(weights):
    limits = st.lists(st.integers(1, 25), min_size=len(weights), max_size=len(weights))
    return st.tuples(st.just(weights), limits)


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 10**12))
def test_every_source_has_its_share_at_any_point(weights, count):
    schedule = Schedule(weights, [None] * len(weights))
    assert len(schedule) == sys.maxsize
    parts = schedule.given(count)
    assert sum(parts) == count
    for part, weight in zip(parts, weights, strict=True):
        # Weights are rounded to a thousandth of the smallest.
        assert abs(part - count * weight / sum(weights)) <= len(weights) + count * 2e-3


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 10**9))
def test_a_record_is_the_next_of_its_source(weights, index):
    schedule = Schedule(weights, [None] * len(weights))
    source, place = schedule[index]
    before, after = schedule.given(index), schedule.given(index + 1)
    assert before[source] == place
    assert [b - a for a, b in zip(before, after, strict=True)] == [n == source for n in range(len(weights))]


@settings(deadline=None)
@given(WEIGHTS.flatmap(limited))
def test_limited_sources_give_each_record_once_and_then_it_is_over(problem):
    weights, limits = problem
    schedule = Schedule(weights, limits)
    assert len(schedule) == sum(limits)
    found = [schedule[index] for index in range(len(schedule))]
    for source, limit in enumerate(limits):
        assert [place for number, place in found if number == source] == list(range(limit))
    with pytest.raises(IndexError):
        schedule[len(schedule)]


def test_the_others_go_on_in_proportion_once_a_source_is_used_up():
    schedule = Schedule([1, 2, 1], [3, None, None])
    first = Counter(schedule[index][0] for index in range(12))
    assert first == {0: 3, 1: 6, 2: 3}
    later = Counter(schedule[index][0] for index in range(12, 312))
    assert later == {1: 200, 2: 100}
    assert schedule.given(312) == (3, 206, 103)


def test_the_docstrings_example():
    schedule = Schedule(weights=[3, 1], limits=[None, 2])
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (0, 4), (0, 5), (1, 1), (0, 6)]
    assert [schedule[index] for index in range(9)] == expected
