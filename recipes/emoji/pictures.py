"""The emoji styles as PNG files: RGB over white, one size, one name per emoji whatever the style.

    @lobehub/fluent-emoji-3d   assets/2764-fe0f.webp         ->  images/3d/2764.png
    emoji-datasource-google    img/google/64/2764-fe0f.png   ->  images/noto/2764.png

A file is named by its code points without FE0F ("show as a picture"), which the sources add or leave out as they like.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from archives import BLOB, FLAT, FLUENT, NOTO, TWEMOJI, Package, fetch, members
from PIL import Image
from tqdm import tqdm

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, write_json

TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")  # light, medium-light, medium, medium-dark, dark
TAG_END = "e007f"  # ends the flags of England, Scotland and Wales; Fluent has them with and without it

# Found by comparing the brightness of all five pictures of every emoji, and by eye: the Fluent package has the files of
# "medium-light" and "medium" the wrong way round, but for these emoji (and for all couples), …
FLUENT_IN_ORDER = frozenset(
    {
        *("1f468-200d-1f4bb", "1f469-200d-1f4bb", "1f9d1-200d-1f4bb"),  # technologists
        *("1f46b", "1f46c", "1f46d", "1f48f", "1f491"),  # two people
    }
)
# … and those of the person mountain biking in an order of their own.
FLUENT_MOUNTAIN_BIKER = "1f6b5"


def code_of(filename: str) -> str:
    """The code points a picture file is named after: lower case, four digits or more, without FE0F.

    >>> code_of("1F468-200D-2764-FE0F-200D-1F468.png"), code_of("39-20e3.webp")
    ('1f468-200d-2764-200d-1f468', '0039-20e3')
    """
    points = re.split("[-_]", PurePosixPath(filename).stem.lower())
    if points[-1].startswith("e00") and points[-1] != TAG_END:
        points.append(TAG_END)
    return "-".join(point.zfill(4) for point in points if point != "fe0f")


def code_of_text(text: str) -> str:
    """The code of an emoji given as text, as `code_of` has it."""
    return code_of("-".join(f"{ord(character):x}" for character in text))


def fluent_code(filename: str) -> str:
    """`code_of` for the Fluent package, with the skin tone that the picture really shows.

    >>> fluent_code("1f44b-1f3fc.webp")  # a file that should be medium-light, and is medium
    '1f44b-1f3fd'
    """
    points = code_of(filename).split("-")
    toned = [index for index, point in enumerate(points) if point in TONES and len(points) > 1]
    base = "-".join(point for point in points if point not in TONES)
    if len(toned) == 1 and base not in FLUENT_IN_ORDER:
        order = (4, 2, 3, 1, 0) if base == FLUENT_MOUNTAIN_BIKER else (0, 2, 1, 3, 4)
        points[toned[0]] = TONES[order[TONES.index(points[toned[0]])]]
    return "-".join(points)


@dataclasses.dataclass(frozen=True)
class Style:
    """A way of drawing: its folder, the name captions use for it, and where in which package its pictures are."""

    key: str
    label: str
    package: Package
    folder: str
    code: Callable[[str], str] = code_of


STYLES = (
    Style("3d", "3D", FLUENT, "assets", fluent_code),
    Style("noto", "Noto", NOTO, "img/google/64"),
    Style("twemoji", "Twemoji", TWEMOJI, "img/twitter/64"),
)
# Never drawn, only described: the more ways a thing is seen drawn, the less a description hangs on one of them.
SEEN_STYLES = (
    Style("flat", "Flat", FLAT, "assets", fluent_code),
    Style("blob", "Blob", BLOB, "img/google/64"),
)
RULES = 3  # raise when the pictures made from the same archive change: `iconify.FIREFOX_NAMES` counts


def flatten(image: Image.Image, size: int) -> Image.Image:
    """`image` over white at `size` × `size` pixels, RGB; one that is not square is padded to be, never stretched.

    Resized while still transparent (Pillow weighs the colours by alpha), so no dark rim from invisible black pixels.
    """
    image = image.convert("RGBA")
    side = max(image.size)
    if image.size != (side, side):
        square = Image.new("RGBA", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def outdated(made: Path, source: Path) -> bool:
    """Whether the picture `made` of the file `source` is missing or older than it."""
    return not made.exists() or made.stat().st_mtime_ns < source.stat().st_mtime_ns


def _drawn(svg: bytes, size: int) -> bytes:
    """An SVG as PNG."""
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise UserError("drawing SVG needs the package resvg-py: `pip install resvg-py`.") from error
    return resvg_py.svg_to_bytes(svg_string=svg.decode(), width=size, height=size)


def folder_files(style: Style, archive: Path) -> Iterator[tuple[str, bytes]]:
    """(`CODE.png`, content) of every file in the style's folder of its archive; other endings likewise."""
    for name, content in members(archive, lambda name: str(PurePosixPath(name).parent) == style.folder):
        yield f"{style.code(name)}{PurePosixPath(name).suffix}", content


def write_pictures(
    style: Style,
    out: Path,
    size: int,
    files: Callable[[Style, Path], Iterable[tuple[str, bytes]]] = folder_files,
) -> list[str]:
    """Write `out`/images/STYLE/CODE.png for every emoji of `style`; returns the codes, sorted.

    Does nothing if the folder was completed before from the same archive at the same size.

    Args:
        style: what to write.
        out: the data set's folder.
        size: width and height, pixels.
        files: reads the style's archive: (`CODE.svg` or another ending, content) of each picture.
    """
    folder, record = out / "images" / style.key, out / "images" / f"{style.key}.json"
    made_from = {"package": style.package.name, "sha256": style.package.sha256, "size": size, "rules": RULES}
    if not (folder.is_dir() and record.is_file() and json.loads(record.read_text()) == made_from):
        archive = fetch(style.package, out / "archives")
        with atomic_dir(folder, overwrite=True) as part:
            for name, content in tqdm(files(style, archive), desc=f"pictures: {style.label}", unit=""):
                path = part / f"{PurePosixPath(name).stem}.png"
                if path.exists():  # Fluent holds a few emoji twice, under two spellings: the first one counts
                    continue
                if name.endswith(".svg"):
                    content = _drawn(content, size)
                with Image.open(io.BytesIO(content)) as image:
                    flatten(image, size).save(path)
        write_json(record, made_from)
    return sorted(path.stem for path in folder.glob("*.png"))
