import pytest

from liquid_mm.errors import UserError
from liquid_mm.generate.grammar import ImageTask, TextTask
from liquid_mm.generate.request import Request, Running
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    20, 20, 8, boi=7, eoi=8, unconditional=9, bos=2, eos=1, pad=0, downsampling=8, resolution=(16, 8)
)
DRAW = ImageTask((1, 2), SamplingConfig(guidance_scale=3.0), unconditional=(2, 9, 7))
WRITE = TextTask(5, SamplingConfig(), frozenset({1}))


def running(**tasks) -> Running:
    return Running(Request((2, 5, 7), 0, **tasks), VOCABULARY, context=None)


def test_a_seed_alone_decides_the_numbers():
    numbers = []
    for state in (running(text=WRITE), running(image=DRAW)):
        first = state.uniform()
        assert state.uniform() == first, "a step that is tried again draws the same"
        state.accept(22)
        numbers.append((first, state.uniform()))
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0])) == 2


def test_the_unconditional_row_gets_the_same_codes():
    state = running(image=DRAW)
    assert state.guided
    assert state.unconditional == [2, 9, 7]
    event = state.accept(22)
    assert (event.token, event.modality, event.done) == (22, "image", False)
    assert state.unconditional == [2, 9, 7, 22]
    assert state.ids == [2, 5, 7, 22]
    assert state.accept(23).done
    assert state.result().codes.tolist() == [[2, 3]]


def test_a_reply_is_guided_only_while_it_draws():
    state = running(image=DRAW, text=WRITE)
    guided = []
    for token in (5, 7, 20, 21, 8):
        guided.append(state.guided)
        state.accept(token)
    assert guided == [False, False, True, True, False]


def test_seeds_and_limits_out_of_range_are_refused():
    with pytest.raises(UserError, match="seed is -1"):
        Request((2,), -1, text=WRITE)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        Request((2,), 0, text=TextTask(0, SamplingConfig(), frozenset()))


def test_a_picture_must_fit_the_context():
    request = Request((2, 5, 7), 0, image=DRAW)
    request.check_fits(5)
    request.check_fits(None)
    with pytest.raises(UserError, match="context of 4"):
        request.check_fits(4)


def test_text_needs_room_for_one_token_only():
    request = Request((2, 5, 7), 0, text=WRITE)
    request.check_fits(4)
    with pytest.raises(UserError, match="shorten the prompt"):
        request.check_fits(3)
