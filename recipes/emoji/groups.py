"""What an emoji shows: Unicode's group and subgroup ("Food & Drink", "food-fruit"), as Noto's package has them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from archives import Package, fetch, members
from pictures import TONES, code_of
from splits import PROMPTS

# People, flags and signs make half of all emoji and are the hardest to draw in 64 codes: a recipe weighs them apart.
THINGS = frozenset(
    {"Activities", "Animals & Nature", "Food & Drink", "Objects", "Smileys & Emotion", "Travel & Places"}
)


FIRST_SET = "0.6"  # Unicode's number for the emoji that Japanese phones had before there was a standard
COMMON = frozenset(
    {"food-fruit", "food-sweet", "animal-mammal", "heart", "plant-flower", "sky & weather", "transport-air"}
    | {"transport-ground"}
)


@dataclasses.dataclass(frozen=True)
class Group:
    """What is known of an emoji besides its name: Unicode's group and subgroup, and the set it came with."""

    name: str = ""
    subgroup: str = ""
    added_in: str = ""

    @property
    def is_thing(self) -> bool:
        """Neither a person nor a flag nor a sign."""
        return self.name in THINGS

    def is_common(self, name: str) -> bool:
        """Whether people are likely to ask for it: fruit, sweets, animals, hearts, flowers, weather, vehicles.

        Only those of the first set with at most two words, and `PROMPTS`: what an hour of a laptop can teach.
        """
        first = self.added_in == FIRST_SET and self.subgroup in COMMON and len(name.split()) <= 2
        return self.is_thing and (first or name in PROMPTS)


def read_groups(package: Package, archives: Path) -> dict[str, Group]:
    """Code of an emoji without skin tones -> its group."""
    ((_, content),) = members(fetch(package, archives), lambda name: name == "emoji.json")
    return {
        code_of(entry["unified"]): Group(entry["category"], entry["subcategory"], entry["added_in"])
        for entry in json.loads(content)
    }


def group_of(code: str, groups: dict[str, Group]) -> Group:
    """The group of an emoji with or without skin tones; an empty one where the package does not have it.

    >>> group_of("1f44b-1f3fd", {"1f44b": Group("People & Body", "hand-fingers-open", "0.6")}).subgroup
    'hand-fingers-open'
    """
    plain = "-".join(point for point in code.split("-") if point not in TONES) or code
    return groups.get(plain, Group())
