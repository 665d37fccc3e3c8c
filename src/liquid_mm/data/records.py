"""Source records: what a user hands in, checked field by field, before any image is opened.

    {"image": "cats/1.png", "text": "a cat"}            -> PairEntry
    {"text": "Once upon a time …"}                      -> TextEntry
    {"messages": [{"role": "user",      "content": [{"type": "image", "image": "1.png"},
                                                    {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A cat."}]}   -> ChatEntry

`image` is a path or address (relative ones start at the file's folder), encoded bytes, Hugging Face's
`{"bytes", "path"}`, or a PIL image. Fields that are not named here are ignored: public sets carry many, and
`data.layouts` knows those of the best-known ones. What cannot be used raises `Unusable`, which says where the record
stands and what it lacks; reading goes on after it, and it is counted as a `Reject`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from liquid_mm.data.urls import Place, Url, join
from liquid_mm.errors import UserError

ImageRef = Path | Url | bytes | Image.Image
"""A local path, a remote address, encoded bytes, or a picture."""

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Unusable(UserError):
    """A record that cannot be used.

    Args:
        category: a few words that many records may share; the manifest counts by them.
        where: file and line, row or path of the record.
        detail: what exactly is wrong and what is allowed.
    """

    def __init__(self, category: str, where: str, detail: str) -> None:
        super().__init__(f"{where}: {detail}")
        self.category, self.where, self.detail = category, where, detail


@dataclasses.dataclass(frozen=True)
class Reject:
    """A record left out, and why; one line of `rejects.jsonl`."""

    where: str
    category: str
    reason: str

    @classmethod
    def of(cls, error: Unusable) -> Reject:
        """The reject that `error` describes."""
        return cls(error.where, error.category, error.detail)


@dataclasses.dataclass(frozen=True)
class TextEntry:
    """A document."""

    id: str
    where: str
    text: str


@dataclasses.dataclass(frozen=True)
class PairEntry:
    """An image that is not opened yet, and its caption."""

    id: str
    where: str
    text: str
    image: ImageRef


@dataclasses.dataclass(frozen=True)
class EntryMessage:
    """One turn of a conversation; pictures are not opened yet."""

    role: Role
    parts: tuple[str | ImageRef, ...]


@dataclasses.dataclass(frozen=True)
class ChatEntry:
    """A conversation with at least one turn by the assistant."""

    id: str
    where: str
    messages: tuple[EntryMessage, ...]


Entry = TextEntry | PairEntry | ChatEntry


def parse(fields: Any, *, where: str, folder: Place) -> Entry:
    """Check one source record.

    Args:
        fields: the record as read, normally a mapping.
        where: how messages name its place, such as "captions.jsonl:17"; also its id when it has none.
        folder: what relative image paths start from.

    Raises:
        Unusable: a field is missing, empty or of another type.
    """
    if not isinstance(fields, Mapping):
        raise Unusable("invalid record", where, f"a record is an object with fields, not {type(fields).__name__}.")
    name = str(fields.get("id", where))
    image = fields.get("image", fields.get("file_name"))
    if fields.get("messages") is not None:
        return ChatEntry(name, where, _messages(fields["messages"], where, folder))
    if image is not None:
        return PairEntry(name, where, _text(fields.get("text"), where, "caption"), _image(image, where, folder))
    if "text" in fields:
        return TextEntry(name, where, _text(fields["text"], where, "text"))
    raise Unusable(
        "invalid record",
        where,
        "a record needs `image` and `text`, `text` alone, or `messages`; "
        f"this one has {', '.join(map(repr, fields)) or 'no field'}.",
    )


def _text(value: Any, where: str, name: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"no {name}", where, f"the {name} (field `text`) is missing or empty.")
    if not isinstance(value, str):
        raise Unusable("invalid record", where, f"`text` must be a string, not {type(value).__name__}.")
    return value


def _image(value: Any, where: str, folder: Place) -> ImageRef:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image) or (isinstance(value, bytes) and value):
        return value
    if isinstance(value, (str, Path)) and str(value):
        return join(folder, value)
    raise Unusable(
        "invalid record", where, "`image` must be a path, encoded bytes, or a mapping with `bytes` or `path`."
    )


def _messages(value: Any, where: str, folder: Place) -> tuple[EntryMessage, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise Unusable("invalid record", where, f"`messages` is not valid JSON: {error}.") from error
    if not isinstance(value, (list, tuple)):
        raise Unusable("invalid record", where, "`messages` must be a list of {role, content}.")
    messages = tuple(_message(message, number, where, folder) for number, message in enumerate(value))
    if not any(message.role == "assistant" for message in messages):
        raise Unusable("no assistant turn", where, "`messages` has no turn by the assistant: nothing to learn.")
    return messages


def _message(value: Any, number: int, where: str, folder: Place) -> EntryMessage:
    if not isinstance(value, Mapping) or value.get("role") not in ROLES:
        raise Unusable("invalid record", where, f"message {number} needs a `role`, one of {', '.join(ROLES)}.")
    content = value.get("content")
    parts = content if isinstance(content, (list, tuple)) else [content]
    return EntryMessage(cast(Role, value["role"]), tuple(_part(part, number, where, folder) for part in parts))


def _part(value: Any, number: int, where: str, folder: Place) -> str | ImageRef:
    text = value.get("text") if isinstance(value, Mapping) and value.get("type") == "text" else value
    if isinstance(text, str):
        return text
    if isinstance(value, Mapping) and value.get("type") == "image":
        return _image(value.get("image"), where, folder)
    raise Unusable(
        "invalid record",
        where,
        f"`content` of message {number} must be a string or a list of "
        '{"type": "text", "text": …} and {"type": "image", "image": …}.',
    )
