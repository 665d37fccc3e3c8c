"""Stop strings are found wherever pieces are cut, and nothing of them is shown."""

import pytest

from liquid_mm.serve.stopping import StopStrings


def shown(pieces, *strings):
    stop = StopStrings(strings)
    text = ""
    for piece in pieces:
        text += stop.feed(piece)
        if stop.hit:
            return text, True
    return text + stop.close(), False


@pytest.mark.parametrize("text", ["one\n\ntwo", "a\nb\n", "ababac", "", "\n\n", "aabaabaaab"])
@pytest.mark.parametrize("strings", [("\n\n",), ("abac", "ba"), ("aab", "aaab"), ()])
@pytest.mark.parametrize("width", [1, 2, 3, 99])
def test_pieces_make_no_difference(text, strings, width):
    ends = [(text.find(string) + len(string), text.find(string)) for string in strings if string in text]
    expected = text[: min(ends)[1]] if ends else text
    pieces = [text[i : i + width] for i in range(0, len(text), width)]
    assert shown(pieces, *strings) == (expected, bool(ends))


def test_what_cannot_be_the_beginning_of_one_is_not_held_back():
    stop = StopStrings(["END"])
    assert [stop.feed(piece) for piece in ("abc", "E", "N", "d", "EN")] == ["abc", "", "", "ENd", ""]
    assert (stop.close(), stop.hit) == ("EN", False)
