"""Pictures put together of known ones: two things side by side or one above the other, and several of one kind.

    a cat face above a rocket, 3D style        64×128 pixels      learnt for drawing; which pairs are shown is a hash
    a cat face beside a rocket, 3D style       128×64
    three red apples                           64×64, a quarter each; for questions that count

A pair that is held out is held out in both orders and both directions, while each of its two things stands in many
pairs that are not: what is tested is putting together, not knowing the parts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from captions import with_article
from pictures import outdated
from PIL import Image
from splits import share

from liquid_mm.files import atomic_file

Record = dict[str, Any]

TEST_PAIRS = 0.10  # of unordered pairs
SHOWN_WITH = 20  # pairs per thing and direction that training shows; a thing may come in more of them or in fewer
TESTED = 60  # held-out pairs of each direction
DIRECTIONS = ("above", "beside")
COUNTED = 4


def stack(first: Image.Image, second: Image.Image, direction: str) -> Image.Image:
    """Two pictures of one size as one: (w, 2h) for "above", (2w, h) for "beside"."""
    width, height = first.size
    across, down = (0, height) if direction == "above" else (width, 0)
    whole = Image.new("RGB", (width + across, height + down), "white")
    whole.paste(first, (0, 0))
    whole.paste(second, (across, down))
    return whole


def several(image: Image.Image, count: int, rng: random.Random) -> Image.Image:
    """`count` (1 to 4) small copies of a picture in different quarters of a white one of its size."""
    width, height = image.size
    small = image.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", image.size, "white")
    for corner in rng.sample(range(COUNTED), count):
        whole.paste(small, (corner % 2 * (width // 2), corner // 2 * (height // 2)))
    return whole


def held_out(first: str, second: str) -> bool:
    """Whether this pair of names is never shown together, in whatever order."""
    return share("pair", *sorted((first, second))) < TEST_PAIRS


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        image.save(part, "png")


def _code(record: Mapping[str, Any]) -> str:
    return Path(record["image"]).stem


def pair_records(things: Sequence[Record], out: Path) -> dict[str, list[Record]]:
    """Write the pictures of pairs; returns {"train_pairs": […], "test_pairs": […]}.

    Args:
        things: one record per picture, all of one style and size, images below `out`.
    """
    style = things[0]["style"]
    images = {_code(thing): Image.open(out / thing["image"]).convert("RGB") for thing in things}
    files: dict[str, list[Record]] = {"train_pairs": [], "test_pairs": []}
    for direction in DIRECTIONS:
        ordered = list(itertools.permutations(things, 2))
        ordered.sort(key=lambda pair: share("shown", direction, pair[0]["name"], pair[1]["name"]))
        shown = [pair for pair in ordered if not held_out(pair[0]["name"], pair[1]["name"])]
        kept = [pair for pair in ordered if held_out(pair[0]["name"], pair[1]["name"])]
        chosen = {"train_pairs": shown[: SHOWN_WITH * len(things)], "test_pairs": kept[:TESTED]}
        for file, pairs in chosen.items():
            for first, second in pairs:
                name = f"pairs/{direction}/{_code(first)}_{_code(second)}.png"
                if any(outdated(out / name, out / part["image"]) for part in (first, second)):
                    _save(stack(images[_code(first)], images[_code(second)], direction), out / name)
                words = f"{with_article(first['name'])} {direction} {with_article(second['name'])}"
                record = {
                    "id": name.removesuffix(".png"),
                    "image": name,
                    "text": f"{words}, {style} style",
                    "parts": [first["name"], second["name"]],
                    "direction": direction,
                    "style": style,
                    "split": file.split("_")[0],
                }
                files[file].append(record)
    return files


def count_pictures(things: Sequence[Record], out: Path) -> Iterator[tuple[Record, int, str]]:
    """Write pictures of several things; yields the thing, how many there are, and the picture's path below `out`."""
    for thing in things:
        for count in range(1, COUNTED + 1):
            yield thing, count, count_picture(thing["image"], count, out, "counts")


def count_picture(image: str, count: int, out: Path, folder: str) -> str:
    """Write the picture of `count` small copies of one; returns its path below `out`: FOLDER/STYLE/CODE-COUNT.png."""
    name = f"{folder}/{Path(image).parent.name}/{Path(image).stem}-{count}.png"
    if outdated(out / name, out / image):
        with Image.open(out / image) as opened:
            _save(several(opened.convert("RGB"), count, random.Random(f"{image} {count}")), out / name)
    return name
