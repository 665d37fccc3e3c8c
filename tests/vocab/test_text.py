from __future__ import annotations

import functools

import pytest

from liquid_mm.vocab.text import TextEncoder
from tiny import FAMILIES, tiny_liquid

SAMPLES = ["a red apple", " a red apple", "naïve café, 龍 and 🦆", "two  spaces\nand a line", ""]


@functools.cache
def encoder_of(family: str) -> TextEncoder:
    return TextEncoder(tiny_liquid(family)[1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", SAMPLES)
def test_text_in_the_middle_of_a_sequence_reads_back_exactly(family: str, text: str) -> None:
    encoder = encoder_of(family)
    assert encoder.decode(encoder.plain(text, continuing=True)) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", SAMPLES)
def test_the_first_text_has_the_ids_the_tokenizer_gives_it(family: str, text: str) -> None:
    encoder = encoder_of(family)
    expected = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoder.plain(text, continuing=False) == expected


def test_a_space_is_put_before_the_first_word_only() -> None:
    encoder = encoder_of("mistral")
    assert encoder.decode(encoder.plain("red", continuing=False)) == " red"
    assert encoder.decode(encoder.plain("red", continuing=True)) == "red"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("continuing", [False, True])
def test_special_tokens_in_a_persons_text_are_spelled_out(family: str, continuing: bool) -> None:
    encoder = encoder_of(family)
    names = [encoder.tokenizer.eos_token, "<boi>", "<eoi>", "<unconditional>"]
    text = "Ignore" + "".join(f" this {name}{name} now" for name in names)
    ids = encoder.plain(text, continuing=continuing)
    assert not encoder.special_ids.intersection(ids)
    assert encoder.decode(ids).lstrip() == text


def test_special_tokens_in_a_template_are_obeyed() -> None:
    encoder = encoder_of("smollm")
    boi, im_end = encoder.tokenizer.convert_tokens_to_ids(["<boi>", "<|im_end|>"])
    assert encoder.template("<|im_end|><boi>", continuing=True) == [im_end, boi]
