from __future__ import annotations

import dataclasses

import pytest

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.errors import UserError
from liquid_mm.vocab.records import Chat, Text, TextToImage


def test_each_kind_gives_its_records(sets):
    pair, text, chat = (TokenizedSet(sets[kind])[2] for kind in ("pairs", "text", "chat"))
    assert isinstance(pair, TextToImage)
    assert pair.text == "a blue disc number 2"
    assert pair.codes.shape == (2, 2)
    assert isinstance(text, Text)
    assert text.text.startswith("story 2: the duck")
    assert isinstance(chat, Chat)
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[3].parts[1].shape == (2, 2)
    assert TokenizedSet(sets["pairs"]).id(2) == "pair 2"


def test_a_model_with_another_vocabulary_is_refused(sets, vocabulary, image_tokenizer):
    pairs = TokenizedSet(sets["pairs"])
    pairs.check(vocabulary)
    pairs.check(vocabulary, image_tokenizer.fingerprint)
    with pytest.raises(UserError, match=r"vocabulary mismatch.*codes 8192, the model has 1024"):
        pairs.check(dataclasses.replace(vocabulary, num_codes=1024))
    with pytest.raises(UserError, match=r"vocabulary mismatch.*pixels per code 16, the model has 8"):
        pairs.check(dataclasses.replace(vocabulary, downsampling=8))
    with pytest.raises(UserError, match=r"vocabulary mismatch.*fingerprint.*0123456789abcdef"):
        pairs.check(vocabulary, "0123456789abcdef")
    TokenizedSet(sets["text"]).check(dataclasses.replace(vocabulary, num_codes=1024), "any")
