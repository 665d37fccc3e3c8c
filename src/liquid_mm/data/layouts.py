"""The layouts of well-known public sets, turned into our own fields before anything is checked.

    StarCoder   {"content": "<filename>a.py\\nimport os", "max_stars_repo_path": …}  ->  {"text": "import os", …}
    LLaVA       {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, …]}
                                                                             ->  {"messages": [{"role": "user", …}, …]}

A record is recognised by the names of its fields, so no option is needed. Mini-Gemini's instruction JSON is LLaVA's.

    set              fields looked for                  source of the layout
    DCLM             text, url, warcinfo                mlfoundations/dclm-baseline-1.0 on the Hub
    StarCoder        content, max_stars_repo_path       bigcode/starcoderdata
    JourneyDB        img_path, prompt                   JourneyDB/JourneyDB: the annotations beside imgs/
    LLaVA            conversations                      github.com/haotian-liu/LLaVA: docs/Finetune_Custom_Data.md
    LMSYS chat       conversation_id, conversation      lmsys/lmsys-chat-1m

SlimPajama (cerebras/SlimPajama-627B: `text`, `meta`) has our own fields already.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from liquid_mm.data.records import Unusable

Fields = Mapping[str, Any]

IMAGE_MARK = "<image>"
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}

STARCODER_HEAD = re.compile(r"\A(?:<(?:reponame|filename|gh_stars)>[^<\n]*)+\n?")
"""What stands before the code in many of StarCoder's files: special tokens to its tokenizer, text to any other."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A public set's layout.

    Args:
        name: what messages call it.
        fields: a record with all of these fields is in this layout.
        adapt: its fields as ours (`data.records`).
    """

    name: str
    fields: frozenset[str]
    adapt: Callable[[Fields], dict[str, Any]]


def canonical(fields: Any, where: str) -> Any:
    """`fields` in our own names if they follow a known layout, otherwise as they are.

    Raises:
        Unusable: the layout is known by its fields, but the record does not keep to it.
    """
    if not isinstance(fields, Mapping):
        return fields
    layout = next((layout for layout in LAYOUTS if layout.fields <= fields.keys()), None)
    if layout is None:
        return fields
    try:
        return layout.adapt(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it has the fields of the {layout.name} layout but does not follow it: {error!r}."
        raise Unusable("invalid record", where, reason) from error


def _dclm(fields: Fields) -> dict[str, Any]:
    metadata = fields.get("metadata")
    if isinstance(metadata, str):  # the Parquet form stores it as JSON
        metadata = json.loads(metadata)
    return {"id": (metadata or {}).get("WARC-Record-ID", fields["url"]), "text": fields["text"]}


def _starcoder(fields: Fields) -> dict[str, Any]:
    name = "/".join(filter(None, (fields.get("max_stars_repo_name"), fields["max_stars_repo_path"])))
    return {"id": name, "text": STARCODER_HEAD.sub("", fields["content"])}


def _journeydb(fields: Fields) -> dict[str, Any]:
    # The annotations lie beside `imgs/`, and paths are written as seen from within it.
    path = fields["img_path"].removeprefix("./")
    return {"id": path, "image": f"imgs/{path}", "text": fields["prompt"]}


def _llava(fields: Fields) -> dict[str, Any]:
    given = fields.get("image")
    images = list(given) if isinstance(given, (list, tuple)) else [given] if given is not None else []
    turns = fields["conversations"]
    marks = sum(turn["value"].count(IMAGE_MARK) for turn in turns)
    if marks != len(images):
        raise ValueError(f"{len(images)} images for {marks} {IMAGE_MARK} marks")
    rest = iter(images)
    messages = []
    for turn in turns:
        pieces = [piece.strip() for piece in turn["value"].split(IMAGE_MARK)]
        content: list[dict[str, Any]] = []
        for number, piece in enumerate(pieces):
            if number:
                content.append({"type": "image", "image": next(rest)})
            if piece:
                content.append({"type": "text", "text": piece})
        messages.append({"role": SPEAKERS[turn["from"]], "content": content})
    return {**({"id": fields["id"]} if "id" in fields else {}), "messages": messages}


def _lmsys(fields: Fields) -> dict[str, Any]:
    return {"id": fields["conversation_id"], "messages": list(fields["conversation"])}


LAYOUTS = (
    Layout("DCLM", frozenset({"text", "url", "warcinfo"}), _dclm),
    Layout("StarCoder", frozenset({"content", "max_stars_repo_path"}), _starcoder),
    Layout("JourneyDB", frozenset({"img_path", "prompt"}), _journeydb),
    Layout("LLaVA", frozenset({"conversations"}), _llava),
    Layout("LMSYS chat", frozenset({"conversation_id", "conversation"}), _lmsys),
)
