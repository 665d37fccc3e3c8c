from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from liquid_mm.data.records import ChatEntry, PairEntry, TextEntry, Unusable, parse

FOLDER = Path("sets")


def read(fields: object):
    return parse(fields, where="a.jsonl:3", folder=FOLDER)


def test_the_fields_decide_the_kind():
    assert read({"text": "once"}) == TextEntry("a.jsonl:3", "a.jsonl:3", "once")
    assert read({"id": 7, "image": "x/1.png", "text": "a cat", "licence": "CC0"}) == PairEntry(
        "7", "a.jsonl:3", "a cat", FOLDER / "x/1.png"
    )
    chat = read({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    assert isinstance(chat, ChatEntry)
    assert [(message.role, message.parts) for message in chat.messages] == [
        ("user", ("Hi",)),
        ("assistant", ("Hello",)),
    ]


def test_a_column_that_is_null_counts_as_absent():
    assert isinstance(read({"image": None, "messages": None, "text": "once"}), TextEntry)


def test_an_image_may_be_a_path_bytes_a_mapping_or_a_picture():
    picture = Image.new("RGB", (2, 2))
    for given, kept in [
        ("/abs/1.png", Path("/abs/1.png")),
        (b"png", b"png"),
        ({"bytes": b"png", "path": None}, b"png"),
        ({"bytes": None, "path": "1.png"}, FOLDER / "1.png"),
        (picture, picture),
    ]:
        assert read({"image": given, "text": "a"}).image == kept


def test_messages_may_be_json_and_hold_images_anywhere():
    text = '[{"role": "user", "content": [{"type": "image", "image": "1.png"}, {"type": "text", "text": "?"}]},'
    text += '{"role": "assistant", "content": "!"}]'
    chat = read({"messages": text})
    assert chat.messages[0].parts == (FOLDER / "1.png", "?")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["text"], "not list"),
        ({"caption": "a cat"}, "this one has 'caption'"),
        ({}, "no field"),
        ({"image": "1.png"}, "caption"),
        ({"image": "1.png", "text": " "}, "caption"),
        ({"text": 3}, "not int"),
        ({"image": 3, "text": "a"}, "`image` must be"),
        ({"image": {"bytes": None, "path": None}, "text": "a"}, "`image` must be"),
        ({"messages": "[{"}, "not valid JSON"),
        ({"messages": {"role": "user"}}, "must be a list"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no turn by the assistant"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "one of system, user, assistant"),
        ({"messages": [{"role": "assistant", "content": [{"type": "sound"}]}]}, "`content` of message 0"),
    ],
)
def test_a_bad_record_is_named_with_its_place(fields: object, says: str):
    with pytest.raises(Unusable) as caught:
        read(fields)
    assert str(caught.value).startswith("a.jsonl:3: ")
    assert says in str(caught.value)
