import itertools
import sys

import pytest

from liquid_mm.data import groups
from liquid_mm.data.groups import FIRST, LARGEST, Groups, start


@pytest.mark.parametrize("length", [0, 1, FIRST, FIRST + 1, 3 * FIRST, LARGEST - FIRST, 3 * LARGEST, 3 * LARGEST + 5])
def test_every_record_is_in_one_group_and_in_order(length):
    cut = list(Groups(range(length)))
    assert list(itertools.chain(*cut)) == list(range(length))
    assert all(cut), "no group is empty"
    assert all(len(group) == min(FIRST * 2**number, LARGEST) for number, group in enumerate(cut[:-1]))


def test_the_start_of_a_group_is_what_those_before_it_hold():
    sizes = [len(group) for group in Groups(range(9 * LARGEST))]
    assert [start(number) for number in range(len(sizes))] == [sum(sizes[:number]) for number in range(len(sizes))]


def test_one_size_is_a_special_case(monkeypatch):
    monkeypatch.setattr(groups, "FIRST", 24)
    monkeypatch.setattr(groups, "LARGEST", 24)
    assert [len(group) for group in Groups(range(50))] == [24, 24, 2]


def test_an_endless_stream_has_groups_as_far_as_anybody_counts():
    class Endless(list):
        def __len__(self):
            return sys.maxsize

        def __getitem__(self, index):
            return index

    cut = Groups(Endless())
    far = len(cut) // 2
    assert cut[far][0] == start(far)


def test_a_group_beyond_the_end_is_none():
    with pytest.raises(IndexError):
        Groups(range(5))[1]
