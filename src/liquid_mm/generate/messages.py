"""A conversation as users write it, as a `Chat` record.

    [{"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is this?"}]},
     {"role": "assistant", "content": "A cat."},
     {"role": "user", "content": "Draw it from behind."}]

`content` is a string or a list of parts; an image is a path, a PIL image, or a `GeneratedImage`, whose codes are taken
as they are. This is the message format of transformers' chat templates, and what the common chat APIs send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from liquid_mm.errors import UserError, nearest
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.vocab.records import Chat, Message
from liquid_mm.vocab.vocabulary import Grid

ReadImage = Callable[[Any], Grid]
"""From an image (path or PIL image) to the codes of a picture to be understood."""

_ROLES = ("system", "user", "assistant")


def to_chat(messages: Sequence[Mapping[str, Any]], read_image: ReadImage) -> Chat:
    """The record of a conversation whose last turn asks for a reply.

    Raises:
        UserError: a message, a role or a part is not of the form above, or the last turn is the assistant's.
    """
    if not messages:
        raise UserError("the conversation is empty: it needs at least one message of the user's.")
    turns = tuple(_message(message, number, read_image) for number, message in enumerate(messages))
    if turns[-1].role == "assistant":
        raise UserError("the last message is the assistant's: end with the turn that asks for a reply.")
    return Chat(turns)


def _message(message: Mapping[str, Any], number: int, read_image: ReadImage) -> Message:
    where = f"message {number}"
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise UserError(f"{where} must be a mapping with 'role' and 'content', not {message!r}.")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise UserError(f"{where} has the unknown role {role!r}: {nearest(str(role), _ROLES)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise UserError(f"{where}: 'content' must be a string or a list of parts, not {content!r}.")
    return Message(role, tuple(_part(part, where, read_image) for part in parts))


def _part(part: Any, where: str, read_image: ReadImage) -> str | Grid:
    kind = part.get("type") if isinstance(part, Mapping) else None
    value = part.get(kind) if kind in ("text", "image") else None
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "image" and isinstance(value, GeneratedImage):
        return value.codes
    if kind == "image" and isinstance(value, str | Path | Image.Image):
        return read_image(value)
    raise UserError(
        f"{where}: a part is {{'type': 'text', 'text': …}} or {{'type': 'image', 'image': a path or a PIL image}}, "
        f"not {part!r}."
    )
