"""Rows without a device: what is computed, what is copied, where rows end up."""

import pytest

from liquid_mm.generate.slots import WORTH_COPYING, Slots


class Rows:
    """Stands for the device: keeps what each row holds, and what was asked of it."""

    def __init__(self, count):
        self.rows = [[] for _ in range(count)]
        self.passes = []
        self.copies = []

    def forward(self, rows, ids, starts):
        assert len(set(rows)) == len(rows)
        for row, new, start in zip(rows, ids, starts, strict=True):
            assert len(self.rows[row]) >= start, "a gap"
            self.rows[row] = [*self.rows[row][:start], *new]
        self.passes.append((list(rows), [len(new) for new in ids]))
        return [list(self.rows[row]) for row in rows]

    def fill(self, rows, ids, starts):
        self.forward(rows, ids, starts)

    def copy(self, source, target, columns):
        assert len(self.rows[source]) >= columns
        self.rows[target] = self.rows[source][:columns]
        self.copies.append((source, target, columns))

    def clear(self):
        self.rows = [[] for _ in self.rows]


@pytest.fixture
def device():
    return Rows(5)


@pytest.fixture
def slots(device):
    return Slots(5, device)


def advance(slots):
    """A step; every live row must then hold exactly its ids."""
    held = slots.advance()
    assert held == [slot.ids for slot in slots._live]
    assert [slot.row for slot in slots._live] == list(range(len(slots._live)))


def test_a_row_is_filled_but_for_its_last_id_which_the_step_feeds(slots, device):
    slot = slots.take([1, 2, 3])
    advance(slots)
    assert device.passes == [([0], [2]), ([0], [1])]
    slot.ids.append(4)
    advance(slots)
    assert device.passes[2:] == [([0], [1])]
    # Several ids at once, as when codes are forced: one pass for all but the last.
    slot.ids += [5, 6, 7]
    advance(slots)
    assert device.passes[3:] == [([0], [2]), ([0], [1])]


def test_a_row_whose_request_waits_is_fed_the_same_again(slots, device):
    slots.take([1, 2])
    moving = slots.take([7, 8])
    advance(slots)
    moving.ids.append(9)
    advance(slots)
    assert device.rows[:2] == [[1, 2], [7, 8, 9]]


def test_one_prompt_of_several_rows_is_computed_once(slots, device):
    for _ in range(3):
        slots.take([1, 2, 3, 4])
    slots.take([9, 9])
    advance(slots)
    assert device.passes[0] == ([0, 3], [3, 1])
    assert device.copies == [(0, 1, 3), (0, 2, 3)]


def test_what_a_row_held_is_used_again(slots, device):
    first = slots.take([1, 2, 3, 4])
    advance(slots)
    slots.release([first])
    slots.take([1, 2, 3, 7])
    advance(slots)
    assert device.passes[2:] == [([0], [1])], "the row itself held all that was needed"
    slots.take([1, 2, 3, 7, 8])
    advance(slots)
    assert device.copies == [(0, 1, 4)], "a live row holds it"


def test_only_long_beginnings_are_copied(slots, device):
    long = list(range(10, 10 + WORTH_COPYING))
    slots.take([*long, 1, 2])
    advance(slots)
    slots.take([*long, 3, 4])
    slots.take([10, 11, 12, 13])
    advance(slots)
    assert (0, 1, WORTH_COPYING) in device.copies
    assert ([1], [1]) in device.passes, "only what differs is computed"


def test_rows_that_stay_close_the_gaps(slots, device):
    taken = [slots.take([10 * row, 1]) for row in range(1, 6)]
    assert slots.free == 0
    advance(slots)
    slots.release([taken[0], taken[2], taken[3]])
    assert slots.free == 3
    assert device.copies == [(4, 0, 2)], "one move; no copy for those that leave together"
    assert [slot.ids[0] for slot in slots._live] == [50, 20]
    for slot in slots._live:
        slot.ids.append(6)
    advance(slots)


def test_a_row_that_was_overwritten_is_not_taken_for_what_it_held(slots, device):
    old = slots.take([1, 2, 3, 4])
    other = slots.take([5, 6])
    advance(slots)
    slots.release([old])  # row 1 moves over row 0
    slots.release([other])
    slots.take([1, 2, 3, 4])
    advance(slots)
    assert device.rows[0] == [1, 2, 3, 4]


def test_rows_of_very_different_lengths_are_filled_apart(slots, device):
    slots.take([*range(100, 300), 1])
    slots.take([1, 2, 3])
    slots.take([4, 5, 6, 7])
    advance(slots)
    assert device.passes[:2] == [([0], [200]), ([2, 1], [3, 2])]


def test_after_a_failure_nothing_is_taken_for_granted(slots, device):
    slots.take([1, 2, 3])
    advance(slots)
    slots.clear()
    assert slots.free == 5
    slots.take([1, 2, 3])
    advance(slots)
    assert device.rows[0] == [1, 2, 3]
