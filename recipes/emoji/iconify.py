"""Four more ways to draw emoji, from Iconify's icon sets: SVG in one JSON file, named in words instead of code points.

    red-apple, 1st-place-medal       EmojiOne 2, OpenMoji, Streamline: Unicode's names; `pizza-1` is one of two
    redapple, heartgreen, catside    Firefox OS: names of its own

Only what a name is surely of is taken. Nothing is drawn in these styles: three are seen, as `SEEN_STYLES` are, and no
training shows the fourth.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archives import EMOJIONE, FIREFOX, OPENMOJI, STREAMLINE, members
from pictures import Style

ICON_STYLES = (
    Style("emojione", "EmojiOne", EMOJIONE, "."),
    Style("firefox", "Firefox", FIREFOX, "."),
    Style("streamline", "Streamline", STREAMLINE, "."),
)
UNSEEN_STYLE = Style("openmoji", "OpenMoji", OPENMOJI, ".")
# Firefox OS: what is called so, and what it is; None for what looks like something else. Found by eye.
FIREFOX_NAMES: dict[str, str | None] = {
    **{animal: f"{animal} face" for animal in ("cat", "dog", "mouse", "pig", "tiger")},
    **{f"{animal}side": animal for animal in ("cat", "dog", "mouse", "pig", "tiger")},
    **{f"heart{colour}": f"{colour} heart" for colour in ("blue", "green", "purple", "yellow")},
    "beating-heart": None,
    "2hearts": "two hearts",
    "bolt": "high voltage",
    "bunny": "rabbit face",
    "bunnyside": "rabbit",
    "construction": None,
    "evergreen": "evergreen tree",
    "hampster": "hamster",
    "highspeedtrainbulletnose": "bullet train",
    "pigsnout": "pig nose",
    "snowmanwithoutsnow": "snowman",
    "star": None,
    "sunrays": "sun",
    "umbrella": "closed umbrella",
    "umbrellawithraindrops": "umbrella",
    "wave": "water wave",
    "whitemediumstar": None,
}


def key_of(name: str) -> str:
    """`name` by its letters and digits alone, which is all that the sets' spellings share."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def svg_of(icon: Mapping[str, Any], whole: Mapping[str, Any]) -> bytes:
    """One icon as a file of its own.

    Args:
        icon: has a "body", and the sizes in which it differs from the others.
        whole: the set, with the sizes of all.
    """
    left, top, width, height = (
        icon.get(side, whole.get(side, default))
        for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))  # Iconify's defaults
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" '
        f'height="{height}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    ).encode()


def icon_files(style: Style, archive: Path, names: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """(`CODE.svg`, content) of every emoji that the set has under its name, or under its character's.

    Args:
        style: one of `ICON_STYLES`, or `UNSEEN_STYLE`.
        archive: its package.
        names: code -> name, "red apple".
    """
    ((_, content),) = members(archive, lambda name: name == "icons.json")
    whole = json.loads(content)
    icons: dict[str, Mapping[str, Any]] = {}
    for name, icon in whole["icons"].items():
        called = FIREFOX_NAMES.get(name, name) if style.key == "firefox" else name
        if called is not None:
            icons[key_of(called)] = icon
    for code, name in names.items():
        # A code of several points is not what its first one is: a man and a rocket are an astronaut.
        own = name if "-" in code else unicodedata.name(chr(int(code, 16)), name)
        for called in (name, f"{name} 1", own, f"{own} 1"):
            if key_of(called) in icons:
                yield f"{code}.svg", svg_of(icons[key_of(called)], whole)
                break
