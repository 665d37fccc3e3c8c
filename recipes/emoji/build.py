"""Build the emoji data set: pictures with captions in three styles, conversations about them, and plain text.

    python recipes/emoji/build.py -o .cache/emoji

    .cache/emoji/
      archives/                         the downloaded packages
      images/STYLE/CODE.png             pictures, RGB over white
      train_{3d,noto,twemoji}.jsonl     {"id", "image", "text", …}: things, animals and faces, every caption variant
      train_common.jsonl, …             what the demo model learns: common.py lists them
      train_others.jsonl                people, flags and signs, without skin tones
      train_tones.jsonl                 those with skin tones
      validation.jsonl                  known concepts in a style they were not seen in     (one caption per picture,
      test_concepts.jsonl               concepts never seen                                  here and below)
      test_compositions.jsonl           combinations never seen, of parts that were
      chat_train.jsonl                  {"messages": […]}: three conversations per picture without skin tones
      text.jsonl, text_validation.jsonl {"id", "text"}
      stats.json                        counts, and the pictures no name was found for

Image paths are relative to the folder the JSONL files are in. The same archives always give the same files.

Time: half a minute on one core, downloads (239 MB) apart. Result: the table in README.md.
"""

from __future__ import annotations

import enum
import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from archives import CLDR, CLDR_DERIVED, Package, fetch, members
from captions import common_keywords, parse_name, variants
from chats import chats
from command import run
from common import SHORT_VARIANTS, common_files
from documents import documents
from groups import THINGS, Group, group_of, read_groups
from iconify import ICON_STYLES, UNSEEN_STYLE, icon_files
from pictures import SEEN_STYLES, STYLES, code_of_text, write_pictures
from rich.console import Console
from rich.table import Table
from splits import Emoji, assign, verify, withheld_styles

from liquid_mm.files import atomic_file, read_json, write_json

DEFAULT_OUT = Path(".cache/emoji")
# Apart, so that a recipe can weigh the styles, and what people mostly ask for.
CORE_FILES = (*(f"train_{style.key}" for style in STYLES), "train_others")
SPLIT_FILES = (*CORE_FILES, "train_tones", "validation", "test_concepts", "test_compositions")
TEXT_FILES = ("text", "text_validation")


class Part(str, enum.Enum):
    """What can be built on its own."""

    images = "images"
    captions = "captions"
    text = "text"


def cldr_notes(archives: Path) -> dict[str, dict[str, list[str]]]:
    """CLDR's English names ("tts") and keywords ("default"): code -> annotation."""

    def load(package: Package, kind: str) -> dict[str, Any]:
        ((_, content),) = members(fetch(package, archives), lambda name: name == f"{kind}/en/annotations.json")
        notes: dict[str, Any] = json.loads(content)[kind]["annotations"]
        return notes

    both = load(CLDR_DERIVED, "annotationsDerived") | load(CLDR, "annotations")
    return {code_of_text(text): annotation for text, annotation in both.items()}


def write_jsonl(out: Path, files: Mapping[str, Iterable[Any]]) -> dict[str, int]:
    """Write each list of records to `out`/NAME.jsonl, atomically; returns how many there are in each."""
    counts = {}
    for name, records in files.items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        with atomic_file(out / f"{name}.jsonl") as part:
            part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        counts[name] = len(lines)
    return counts


def caption_records(
    codes: Mapping[str, Iterable[str]],
    notes: Mapping[str, Mapping[str, list[str]]],
    groups: dict[str, Group],
) -> list[dict[str, Any]]:
    """Every caption of every picture, each with the split it belongs to.

    Args:
        codes: style key -> the codes drawn in it; those without a name are left out.
        notes: code -> CLDR annotation.
        groups: code without skin tones -> its group.
    """
    styles_of: dict[str, list[str]] = {}
    for style in STYLES:
        for code in codes[style.key]:
            styles_of.setdefault(code, []).append(style.key)
    emojis = [Emoji(code, parse_name(notes[code]["tts"][0])) for code in sorted(styles_of) if code in notes]
    splits = assign(emojis)
    verify(emojis, splits)
    known = [emoji for emoji in emojis if not emoji.tones and splits[emoji.code] == "train"]
    withheld = withheld_styles({emoji.name.concept: styles_of[emoji.code] for emoji in known})
    names = {emoji.code: emoji.name.text for emoji in emojis if not emoji.tones}
    keywords = common_keywords(names, {code: notes[code].get("default", []) for code in names})

    records: list[dict[str, Any]] = []
    for emoji in emojis:
        for style in STYLES:
            if style.key not in styles_of[emoji.code]:
                continue
            split, kind = splits[emoji.code], "tones" if emoji.tones else "core"
            if split == "train" and withheld.get(emoji.name.concept) == style.key:
                split = "validation"
            group = group_of(emoji.code, groups)
            texts = variants(emoji.name.text, keywords.get(emoji.code, ()), style.label)
            wanted = ("styled",) if split != "train" else SHORT_VARIANTS if emoji.tones else tuple(texts)
            records += [
                {
                    "id": f"{emoji.code}/{style.key}/{variant}",
                    "image": f"images/{style.key}/{emoji.code}.png",
                    "text": texts[variant],
                    "name": emoji.name.text,
                    "concept": emoji.name.concept,
                    "style": style.label,
                    "group": group.name,
                    "subgroup": group.subgroup,
                    "common": group.is_common(emoji.name.text),
                    "split": split,
                    "kind": kind,
                    "variant": variant,
                }
                for variant in wanted
                if variant in texts
            ]
    return records


def build_pictures(out: Path, size: int, notes: Mapping[str, Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """Write the pictures of every style; returns style key -> codes."""
    names = {code: parse_name(note["tts"][0]).text for code, note in notes.items()}
    named = functools.partial(icon_files, names=names)
    return {
        **{style.key: write_pictures(style, out, size) for style in (*STYLES, *SEEN_STYLES)},
        **{style.key: write_pictures(style, out, size, named) for style in (*ICON_STYLES, UNSEEN_STYLE)},
    }


def build_captions(
    out: Path, codes: Mapping[str, list[str]], notes: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, Any]:
    """Write the caption and conversation files; returns their part of stats.json."""
    noto = next(style for style in STYLES if style.key == "noto")
    records = caption_records(codes, notes, read_groups(noto.package, out / "archives"))

    def file_of(record: Mapping[str, Any]) -> str:
        if record["split"] != "train":
            return record["split"]
        if record["kind"] == "tones":
            return "train_tones"
        return f"train_{record['image'].split('/')[1]}" if record["group"] in THINGS else "train_others"

    files: dict[str, list[Any]] = {name: [] for name in SPLIT_FILES}
    for record in records:
        files[file_of(record)].append(record)
    pictures = {record["image"]: record for record in records}
    files |= common_files(files, codes, out)
    tested = {record["image"] for record in files["test_pictures"]}
    files["train_twemoji"] = [record for record in files["train_twemoji"] if record["image"] not in tested]
    files["chat_train"] = [
        chat
        for image, record in pictures.items()
        if file_of(record) in CORE_FILES and image not in tested
        for chat in chats(record["name"], record["style"], image)
    ]
    count = Counter((file_of(record), record["style"]) for image, record in pictures.items() if image not in tested)
    return {
        "records": write_jsonl(out, files),
        "pictures": {name: {style.label: count[name, style.label] for style in STYLES} for name in SPLIT_FILES},
        "concepts": {name: len({record["concept"] for record in files[name]}) for name in SPLIT_FILES},
        "unnamed": [f"{style.key}/{code}" for style in STYLES for code in codes[style.key] if code not in notes],
    }


def build_text(out: Path) -> dict[str, Any]:
    """Write the text documents; returns their part of stats.json."""
    files: dict[str, list[Any]] = {name: [] for name in TEXT_FILES}
    for name, record in documents(out / "archives"):
        files[name].append(record)
    characters = {name: sum(len(record["text"]) for record in files[name]) for name in TEXT_FILES}
    return {"text_records": write_jsonl(out, files), "text_characters": characters}


def show(stats: Mapping[str, Any], console: Console) -> None:
    """Print what stats.json says, as a table."""
    table = Table("file", "records", "concepts", *(style.label for style in STYLES), title="pictures by style")
    for name, records in stats.get("records", {}).items():
        pictures = stats["pictures"].get(name, {})
        concepts = stats["concepts"].get(name, "")
        table.add_row(name, str(records), str(concepts), *(str(pictures.get(style.label, "")) for style in STYLES))
    for name, records in stats.get("text_records", {}).items():
        table.add_row(name, str(records), "", *("" for _ in STYLES))
    console.print(table)
    if "unnamed" in stats:
        console.print(f"pictures without a name, left out: {len(stats['unnamed'])} {' '.join(stats['unnamed'])}")


def main(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder to build in; what is done there is kept.")
    ] = DEFAULT_OUT,
    parts: Annotated[
        list[Part] | None, typer.Option(help="What to build; may be given several times. [default: everything]")
    ] = None,
    size: Annotated[int, typer.Option(min=8, help="Width and height of the pictures, in pixels.")] = 64,
) -> None:
    """Build the emoji data set: pictures, captions, conversations and plain text."""
    wanted = set(parts or Part)
    stats = read_json(out / "stats.json") if (out / "stats.json").exists() else {}
    if wanted & {Part.images, Part.captions}:
        notes = cldr_notes(out / "archives")
        codes = build_pictures(out, size, notes)
        if Part.captions in wanted:
            stats |= build_captions(out, codes, notes)
    if Part.text in wanted:
        stats |= build_text(out)
    write_json(out / "stats.json", stats)
    show(stats, Console())


if __name__ == "__main__":
    run(main)
