from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from liquid_mm.errors import UserError
from liquid_mm.vocab.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    text_size=100,
    code_offset=110,
    num_codes=16,
    boi=7,
    eoi=8,
    unconditional=9,
    bos=None,
    eos=1,
    pad=0,
    downsampling=8,
    resolution=(32, 24),
)


def test_codes_begin_where_the_table_ended() -> None:
    assert VOCABULARY.size == 126
    assert VOCABULARY.codes == range(110, 126)
    assert VOCABULARY.is_code([109, 110, 125, 126]).tolist() == [False, True, True, False]


def test_a_size_is_width_by_height_and_a_grid_rows_by_columns() -> None:
    assert VOCABULARY.grid((32, 24)) == (3, 4)
    assert VOCABULARY.pixels((3, 4)) == (32, 24)


@pytest.mark.parametrize("size", [(30, 24), (32, 0), (-8, 8), (4, 4)])
def test_a_size_that_is_no_multiple_is_refused_with_the_step(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*multiples of 8"):
        VOCABULARY.grid(size)


def test_codes_go_to_ids_row_by_row_and_back() -> None:
    grid = np.array([[0, 1, 2], [13, 14, 15]])
    ids = VOCABULARY.to_ids(grid)
    assert ids.tolist() == [110, 111, 112, 123, 124, 125]
    assert np.array_equal(VOCABULARY.to_codes(ids, (2, 3)), grid)


@pytest.mark.parametrize("code", [-1, 16])
def test_a_code_of_another_tokenizer_is_refused(code: int) -> None:
    with pytest.raises(UserError, match=f"image code {code} is outside 0…15"):
        VOCABULARY.to_ids(np.array([[3, code]]))


def test_json_keeps_every_field_and_the_fingerprint() -> None:
    again = Vocabulary.from_json(VOCABULARY.to_json())
    assert again == VOCABULARY
    assert again.fingerprint() == VOCABULARY.fingerprint()
    other = dataclasses.replace(VOCABULARY, resolution=(24, 32))
    assert other.fingerprint() != VOCABULARY.fingerprint()


def test_json_with_other_fields_is_refused_by_name() -> None:
    value = {**VOCABULARY.to_json(), "extra": 1}
    del value["pad"]
    with pytest.raises(UserError, match=r"missing fields \['pad'\] and unknown fields \['extra'\]"):
        Vocabulary.from_json(value)


@pytest.mark.parametrize(
    "change",
    [{"boi": 110}, {"eos": -1}, {"eoi": 7}, {"code_offset": 99}, {"resolution": (33, 24)}],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        dataclasses.replace(VOCABULARY, **change)
