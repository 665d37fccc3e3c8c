import numpy as np
import pytest
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.messages import to_chat

PICTURE = Image.new("RGB", (8, 8))
DRAWN = GeneratedImage(PICTURE, np.full((2, 2), 5), "a cat", 0)


def read(image):
    return np.zeros((1, 1), np.int64) if image is PICTURE else np.ones((1, 1), np.int64)


def user(*parts):
    return {"role": "user", "content": list(parts)}


def test_strings_and_parts_become_a_record():
    chat = to_chat(
        [
            {"role": "system", "content": "Be brief."},
            user(
                {"type": "image", "image": PICTURE},
                {"type": "image", "image": "b.png"},
                {"type": "text", "text": "Same?"},
            ),
            {"role": "assistant", "content": [{"type": "image", "image": DRAWN}]},
            {"role": "user", "content": "Why?"},
        ],
        read,
    )
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert chat.messages[0].parts == ("Be brief.",)
    first, second, question = chat.messages[1].parts
    assert (first.item(), second.item(), question) == (0, 1, "Same?")
    assert chat.messages[2].parts[0] is DRAWN.codes, "a drawn picture's own codes, not those of its pixels"


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "empty"),
        (["hello"], "message 0 must be a mapping"),
        ([{"role": "user"}], "'role' and 'content'"),
        ([{"role": "usr", "content": "a"}], "did you mean 'user'"),
        ([{"role": "user", "content": 5}], "string or a list"),
        ([user({"type": "text"})], "a part is"),
        ([user("hello")], "a part is"),
        ([user({"type": "video", "video": "a.mp4"})], "a part is"),
        ([user({"type": "image", "image": 5})], "a part is"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "the assistant's"),
    ],
)
def test_malformed_messages_are_refused(messages, named):
    with pytest.raises(UserError, match=named):
        to_chat(messages, read)
