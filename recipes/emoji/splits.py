"""Who is trained on and who is held out: decided by a hash of the name, never by an order or a random generator.

    test_concepts       5 % of concepts, in every style and skin tone, together with their man/woman/person forms
    test_compositions   10 % of what is put together of parts (person + skin tone, woman + rocket, man + man + girl,
                        white flag + rainbow), each part of which training has seen elsewhere
    validation          3 % of (concept, style): a known concept drawn in a style it was not seen in
    train               all else

A country's flag is a concept and not a composition: the letters of its code are nothing one could draw.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from captions import Name
from pictures import TONES

JOINER = "200d"

# The prompts whose pictures the README shows, as a user would type them without the article. Never a test concept and
# never withheld for validation: the sheet shows what was learnt. Some of Twemoji's are in `test_pictures.jsonl`.
PROMPTS = (
    *("red apple", "cat face", "red heart", "dog face", "pizza", "rocket", "sun", "sunflower", "banana", "strawberry"),
    *("hamburger", "house", "automobile", "bicycle", "butterfly", "tropical fish", "snowman", "guitar", "soccer ball"),
    *("umbrella", "evergreen tree", "birthday cake", "ghost", "panda"),
)
ALWAYS_SEEN = frozenset({*PROMPTS, "man", "woman", "person", "boy", "girl", "light skin tone", "dark skin tone"})

TEST_CONCEPTS = 0.05
TEST_COMPOSITIONS = 0.10
VALIDATION = 0.03  # of (concept, style) pairs


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One emoji in any style.

    Args:
        code: its code points, "1f469-1f3fd-200d-1f680".
        name: what it shows.
    """

    code: str
    name: Name

    @property
    def tones(self) -> tuple[str, ...]:
        """The skin tones in it, in order; a swatch of a tone alone has none."""
        points = self.code.split("-")
        return tuple(point for point in points if point in TONES) if len(points) > 1 else ()

    @property
    def figures(self) -> tuple[str, ...]:
        """What is joined in it, without skin tones: ("1f469", "1f680")."""
        runs = self.code.split(f"-{JOINER}-")
        return tuple("-".join(point for point in run.split("-") if point not in self.tones) for run in runs)

    @property
    def parts(self) -> frozenset[str]:
        """All it is put together of: {"1f469", "1f3fd", "1f680"}."""
        return frozenset((*self.figures, *self.tones))


def share(*key: str) -> float:
    """A number in [0, 1) that belongs to `key` for ever."""
    digest = hashlib.sha256("/".join(("liquid emoji 1", *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Shown:
    """What training shows: the emoji themselves, and the parts they are put together of."""

    def __init__(self, emojis: Iterable[Emoji]) -> None:
        self.codes: set[str] = set()
        self.parts: set[str] = set()
        for emoji in emojis:
            self.add(emoji)

    def add(self, emoji: Emoji) -> None:
        """Training shows `emoji` too."""
        self.codes.add(emoji.code)
        self.parts |= emoji.parts

    def missing(self, emoji: Emoji, drawn: Collection[str]) -> frozenset[str]:
        """The parts of a composition that training does not show.

        What a composition starts from (the hand of a hand with a skin tone, the woman of a woman astronaut) must be
        shown as a picture of its own, if it is among the `drawn` codes; any other part may be inside a composition.
        """
        base = emoji.figures[0]
        return (emoji.parts - self.parts) | ({base} & set(drawn) - self.codes)


def assign(emojis: Iterable[Emoji]) -> dict[str, str]:
    """The split of each emoji, "train", "test_concepts" or "test_compositions": code -> split.

    A joined concept ("woman astronaut") is held out with all its skin tones. What would be held out as a composition
    goes back to training if training does not show all its parts.
    """
    emojis = sorted(emojis, key=lambda emoji: (len(emoji.tones), emoji.name.text))
    drawn = {emoji.code for emoji in emojis}
    seen_groups = {emoji.name.group for emoji in emojis if emoji.name.concept in ALWAYS_SEEN}
    test_groups = {g for g in {e.name.group for e in emojis} - seen_groups if share("concept", g) < TEST_CONCEPTS}
    known = [emoji for emoji in emojis if emoji.name.group not in test_groups]

    def chosen(emoji: Emoji) -> bool:
        return len(emoji.parts) > 1 and share("composition", emoji.name.text) < TEST_COMPOSITIONS

    chosen_concepts = {emoji.name.concept for emoji in known if chosen(emoji) and not emoji.tones}
    candidates = [emoji for emoji in known if chosen(emoji) or emoji.name.concept in chosen_concepts]
    splits = {emoji.code: "test_concepts" for emoji in emojis if emoji.name.group in test_groups}
    splits |= {emoji.code: "test_compositions" for emoji in candidates}
    shown = Shown(emoji for emoji in emojis if emoji.code not in splits)
    for emoji in candidates:  # those without tones come first; one that goes back never unmakes an earlier decision
        wanted = chosen(emoji) or emoji.name.concept in chosen_concepts
        if not wanted or shown.missing(emoji, drawn):
            del splits[emoji.code]
            shown.add(emoji)
            if not emoji.tones:
                chosen_concepts.discard(emoji.name.concept)
    return {emoji.code: splits.get(emoji.code, "train") for emoji in emojis}


def withheld_styles(styles_of: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For some concepts the one style that goes to validation: concept -> style.

    Args:
        styles_of: concept -> the styles it is drawn in. One drawn in a single style is never withheld.
    """
    withheld = {}
    for concept, styles in styles_of.items():
        rate = VALIDATION * len(styles)  # one style at most, so that the others show the concept
        if concept not in ALWAYS_SEEN and len(styles) > 1 and share("validation", concept) < rate:
            withheld[concept] = sorted(styles)[int(share("style", concept) * len(styles))]
    return withheld


def verify(emojis: Iterable[Emoji], splits: Mapping[str, str]) -> None:
    """Assert what the test splits promise, on the whole data set."""
    emojis = list(emojis)
    drawn = {emoji.code for emoji in emojis}
    by_split = {split: [emoji for emoji in emojis if splits[emoji.code] == split] for split in set(splits.values())}
    train = by_split.get("train", [])
    shown = Shown(train)
    groups = {emoji.name.group for emoji in train}
    for emoji in by_split.get("test_concepts", []):
        assert emoji.name.group not in groups, f"{emoji.name.text} is held out, and training shows its concept"
    held_out = {emoji.name.concept for emoji in by_split.get("test_compositions", []) if not emoji.tones}
    for emoji in by_split.get("test_compositions", []):
        missing = shown.missing(emoji, drawn)
        assert not missing, f"{emoji.name.text} is held out, and training does not show {sorted(missing)}"
    for emoji in train:
        assert emoji.name.concept not in held_out, f"training shows {emoji.name.text}, whose concept is held out"
