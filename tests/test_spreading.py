"""Spreading work over actors: how many there are, and errors that arrive as they were raised.

That a killed actor costs nothing is tested with real work, in `generate` and `data`.
"""

from __future__ import annotations

import pytest

from liquid_mm.cluster import Share, share, spread
from liquid_mm.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([{"CPU": 8.0}], None, Share(1, {"num_cpus": 8})),
        ([{"CPU": 8.0}], 2, Share(2, {"num_cpus": 4})),
        ([{"CPU": 8.0}], 20, Share(20, {"num_cpus": 1})),
        ([{"CPU": 8.0}, {"CPU": 6.0}, {"CPU": 0.0}, {}], None, Share(2, {"num_cpus": 6})),
        ([{"CPU": 8.0}, {"CPU": 6.0}], 3, Share(3, {"num_cpus": 3})),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}], None, Share(5, {"num_gpus": 1})),
        ([{"CPU": 8.0, "GPU": 4.0}], 2, Share(2, {"num_gpus": 1})),
    ],
)
def test_actors_have_a_gpu_each_or_divide_the_processors(machines, workers, expected):
    assert share(machines, workers) == expected


def picky():
    """A worker that refuses to start. Made inside a function, for the actors cannot import the tests."""

    class Picky:
        def __init__(self, name):
            raise UserError(f"there is no file {name}.")

    return Picky


@pytest.mark.usefixtures("local_ray")
def test_an_actors_error_arrives_as_it_was_raised():
    assert list(spread([], picky(), ("a",))) == []
    with pytest.raises(UserError, match=r"^there is no file a\.$"):
        list(spread([1, 2], picky(), ("a",), workers=1))
