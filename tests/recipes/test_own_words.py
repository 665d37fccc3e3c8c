"""The language model's own words, as training text: prompts and where an answer ends."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

from own_words import ASKED, OPENINGS, ended, filled


def test_templates_take_turns_with_the_names():
    prompts = list(filled(OPENINGS, ["owl", "red apple", "fog"], 12))
    assert prompts[0] == "Once upon a time, there was an owl"
    assert prompts[1] == "A red apple is"
    assert prompts[2] == "The fog"
    assert prompts[10] == "Once upon a time, there was a red apple"  # the first template again, another name
    asked = list(filled(ASKED, ["owl"], len(ASKED)))
    assert len(set(asked)) == len(ASKED)
    assert all("{" not in question for question in asked)


def test_a_text_ends_with_its_last_sentence():
    assert ended("It was late. Nobody came! Then the do") == "It was late. Nobody came!"
    assert ended('He said "Go." and we') == 'He said "Go."'
    assert ended("Two things.\n1. The first one.\n2.") == "Two things.\n1. The first one."
    assert ended("the door and then") is None
