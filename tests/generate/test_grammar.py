import dataclasses

import numpy as np
import pytest

from liquid_mm.generate.grammar import Choice, Grammar, ImageTask, TextTask
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary

# 20 text ids, 4 padding rows, 8 codes.
VOCABULARY = Vocabulary(
    20, 24, 8, boi=7, eoi=8, unconditional=9, bos=2, eos=1, pad=0, downsampling=8, resolution=(16, 8)
)
DRAW = ImageTask((1, 2), SamplingConfig(top_k=1, guidance_scale=3.0))
WRITE = TextTask(5, SamplingConfig(top_k=2), frozenset({1, 12}))
CODES = Choice(range(24, 32))


def feed(grammar: Grammar, *tokens: int) -> Grammar:
    for token in tokens:
        grammar.accept(token)
    return grammar


def test_a_picture_is_exactly_its_codes():
    grammar = Grammar(VOCABULARY, DRAW, None)
    assert grammar.choice == CODES
    assert grammar.sampling == DRAW.sampling
    feed(grammar, 24)
    assert grammar.choice == CODES
    assert grammar.open_codes == [24]
    assert not grammar.done
    feed(grammar, 31)
    assert grammar.done
    np.testing.assert_array_equal(grammar.parts[0], [[0, 7]])


def test_text_holds_no_codes_no_padding_rows_and_no_structure():
    assert Grammar(VOCABULARY, None, WRITE).choice == Choice(range(20), (0, 2, 7, 8, 9))


def test_a_stop_id_may_always_be_written():
    # Families that use one id for eos, bos and padding must still be able to stop.
    vocabulary = Vocabulary(20, 20, 8, 7, 8, 9, bos=1, eos=1, pad=1, downsampling=8, resolution=(16, 8))
    assert 1 not in Grammar(vocabulary, None, WRITE).choice.excluded


def test_unrestricted_text_may_be_anything():
    grammar = Grammar(VOCABULARY, None, TextTask(5, SamplingConfig(), frozenset({1}), unrestricted=True))
    assert grammar.choice == Choice(range(32))
    assert feed(grammar, 30, 7, 1).parts == [(30, 7)]
    assert grammar.done


def test_text_ends_at_a_stop_id_which_is_not_part_of_it():
    grammar = feed(Grammar(VOCABULARY, None, WRITE), 5, 6, 12)
    assert grammar.done
    assert grammar.parts == [(5, 6)]


def test_text_ends_at_its_limit():
    grammar = feed(Grammar(VOCABULARY, None, WRITE), 5, 5, 5, 5)
    assert not grammar.done
    assert feed(grammar, 5).done
    assert grammar.parts == [(5,) * 5]


def test_text_ends_with_the_context():
    assert feed(Grammar(VOCABULARY, None, WRITE, room=2), 5, 5).done


def test_a_reply_goes_from_text_to_picture_and_back():
    grammar = Grammar(VOCABULARY, DRAW, WRITE)
    assert 7 not in grammar.choice.excluded
    feed(grammar, 5, 7)
    assert grammar.choice == CODES
    assert grammar.sampling == DRAW.sampling
    feed(grammar, 25, 26)
    assert grammar.forced == 8
    feed(grammar, 8)
    assert grammar.forced is None
    assert grammar.sampling == WRITE.sampling
    assert 7 in grammar.choice.excluded, "one picture was allowed"
    feed(grammar, 6, 1)
    assert grammar.done
    assert grammar.parts[0] == (5,)
    np.testing.assert_array_equal(grammar.parts[1], [[1, 2]])
    assert grammar.parts[2] == (6,)


def test_a_picture_opened_with_the_last_token_is_finished():
    grammar = feed(Grammar(VOCABULARY, DRAW, WRITE), 5, 5, 5, 5, 7, 25, 26)
    assert not grammar.done
    assert feed(grammar, 8).done
    assert len(grammar.parts) == 2


@pytest.mark.parametrize(("room", "opens"), [(4, True), (3, False)])
def test_a_picture_is_opened_only_where_all_of_it_fits(room, opens):
    # <boi>, two codes, <eoi>
    assert (7 not in Grammar(VOCABULARY, DRAW, WRITE, room).choice.excluded) == opens


def test_kept_codes_are_forced_and_the_others_drawn():
    grammar = Grammar(VOCABULARY, dataclasses.replace(DRAW, kept=(25, None)), None)
    assert (grammar.forced, grammar.drawing) == (25, True)
    feed(grammar, 25)
    assert (grammar.forced, grammar.drawing) == (None, True)
    assert grammar.choice == CODES
    feed(grammar, 30)
    assert (grammar.done, grammar.drawing) == (True, False)
    np.testing.assert_array_equal(grammar.parts[0], [[1, 6]])
    with pytest.raises(AssertionError, match="one entry for each place"):
        dataclasses.replace(DRAW, kept=(25,))
