"""What kind of thing an emoji shows: Unicode's group and subgroup ("Food & Drink", "food-fruit"), from Noto's package."""

from __future__ import annotations

import json
from pathlib import Path

from archives import Package, fetch, members
from pictures import TONES, code_of

# People, flags and signs make half of all emoji and are the hardest to draw in 64 codes: a recipe weighs them apart.
THINGS = frozenset(
    {"Activities", "Animals & Nature", "Food & Drink", "Objects", "Smileys & Emotion", "Travel & Places"}
)


def read_groups(package: Package, archives: Path) -> dict[str, tuple[str, str]]:
    """Code of an emoji without skin tones -> its group and subgroup."""
    ((_, content),) = members(fetch(package, archives), lambda name: name == "emoji.json")
    return {code_of(entry["unified"]): (entry["category"], entry["subcategory"]) for entry in json.loads(content)}


def group_of(code: str, groups: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """Group and subgroup of an emoji with or without skin tones; empty where the package does not have it.

    >>> group_of("1f44b-1f3fd", {"1f44b": ("People & Body", "hand-fingers-open")})
    ('People & Body', 'hand-fingers-open')
    """
    plain = "-".join(point for point in code.split("-") if point not in TONES) or code
    return groups.get(plain, ("", ""))
