"""Keys and room: who comes in, and how many at once."""

import pytest

from liquid_mm.serve.errors import Busy, Unauthorized
from liquid_mm.serve.limits import Admission, Keys


def test_keys_are_told_by_name_only():
    keys = Keys(["one", "zwölf"])
    assert keys.check("Bearer one") != keys.check("bearer  zwölf")
    assert "one" not in keys.check("Bearer one")
    for wrong in (
        None,
        "",
        "one",
        "Basic one",
        "Bearer",
        "Bearer on",
        "Bearer \udcff".encode("utf-8", "replace").decode(),
    ):
        with pytest.raises(Unauthorized):
            keys.check(wrong)
    assert Keys([]).check(None) is None


def test_what_is_computed_waits_no_more_and_what_has_left_makes_room():
    door = Admission(max_queue=3, max_per_key=4)
    first = door.admit(2, "a")
    with pytest.raises(Busy, match="2 replies wait and at most 3"):
        door.admit(2, "b")
    assert [first.started(0), first.started(0), first.started(1)] == [True, False, True]
    assert (door.waiting, door.running) == (0, 2)
    second = door.admit(2, "a")
    with pytest.raises(Busy, match="you have 4 of at most 4"):
        door.admit(1, "a")
    other = door.admit(1, "b")
    for place in (first, first, second, other):
        place.leave()
    assert (door.waiting, door.running) == (0, 0)
    assert not first.started(0)
    door.admit(3, "a")
