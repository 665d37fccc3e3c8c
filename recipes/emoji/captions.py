"""From Unicode's short names to captions a person might write.

    "waving hand: light skin tone"    ->  waving hand with light skin tone
    "flag: France"                    ->  flag of France
    "family: man, woman, girl"        ->  family of a man, a woman and a girl

    red apple  ->  red apple | a red apple | a red apple, 3D style | red apple (food, fruit), 3D style | …

Everything here is a pure function of strings.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PEOPLE = ("man", "woman", "person", "adult", "child", "boy", "girl")
HAIR = {"bald": "bald {}", "beard": "{} with a beard", "facing right": "{} facing right"}

# Countries written with "the"; the others that need it end in one of the words of the pattern below.
THE_COUNTRIES = frozenset({"Bahamas", "Comoros", "Gambia", "Isle of Man", "Maldives", "Netherlands", "Philippines"})
THE_COUNTRY = re.compile(r"(Islands|Territor(y|ies)|Republic|Emirates|States|Kingdom|Union|Nations|Netherlands)$")
COUNTRIES = {
    "Congo - Brazzaville": "Congo-Brazzaville",
    "Congo - Kinshasa": "Congo-Kinshasa",
    "Hong Kong SAR China": "Hong Kong",
    "Macao SAR China": "Macao",
    "Myanmar (Burma)": "Myanmar",
    "Cocos (Keeling) Islands": "Cocos Islands",
}

# Where the head of a phrase ends: "house with garden", "bow and arrow", "woman feeding baby".
AFTER_HEAD = re.compile(
    r" (?:with|of|in|on|for|to|from|at|over|behind|without|and|as|between|blowing|curving|facing|holding|pointed"
    r"|pointing|savoring|showing|wearing) "
)
LABELS = frozenset({"button", "sign", "symbol", "mark"})  # "litter in bin sign" is a sign, whatever comes before
SINGULAR_S = _words(
    "abacus bus cactus compass cross dress fleur-de-lis glass hibiscus hippopotamus kiss lotus minibus octopus "
    "princess rhinoceros trolleybus"
)
PLURALS = frozenset({"men", "women", "people"})
UNCOUNTED = _words(
    "away bacon badminton biohazard bowling bread breast-feeding broccoli butter camping construction control "
    "cooking copyright coral cream customs dango divide dizzy dna falafel fencing fog foggy food fries fuji garlic "
    "hockey ice infinity information lacrosse liquid locked lowercase luggage mate meat minus money multiply oden off "
    "om plus polish pong popcorn prohibited radioactive rail registered rice rolling sake salt score soap spaghetti "
    "star-struck sushi tea tennis thread together unlocked uppercase voltage water wireless wood yang yarn"
)
UNCOUNTED_NAMES = re.compile(r"no |non-|thumbs |vibration mode|(light|medium|dark)[a-z-]* skin|.*(o'clock|-thirty)$")
THE_NAMES = frozenset({"Statue of Liberty", "Tokyo tower", "milky way", "kaaba"})
LETTERS_WITH_AN = frozenset({"NG", "SOS", "x-ray", "hourglass", "8", "18"})
VOWELS_WITH_A = re.compile(r"(uni|one|ewe|eu|U\.S|UK)")

# Chat abbreviations and words too vague to describe a picture, among the keywords that many emoji share.
VAGUE = _words(
    "143 30 babe bae bestie bff bro closed date dating double down facing fairy fairytale fast feels five flip "
    "flirt flirting forbidden good heavy hold ideograph ily index left mad mark move no not office omg open "
    "ornithology pick point prohibited raised right shade sign small symbol tale thirty together up walk whatever "
    "xoxo you"
)
COMMON = 5  # a keyword counts if this many emoji share it: those name a kind of thing, the rare ones are often slang


@dataclasses.dataclass(frozen=True)
class Name:
    """What an emoji shows.

    Args:
        text: the whole name, "waving hand with light skin tone".
        concept: the name without skin tones, "waving hand".
        group: what concepts that differ only in who does it have in common, "firefighter" for "woman firefighter".
    """

    text: str
    concept: str
    group: str


def _join(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def plain(text: str) -> str:
    """Typographic quotes and "&" as one types them."""
    return text.replace("’", "'").replace("“", '"').replace("”", '"').replace("&", "and")


def parse_name(tts: str) -> Name:
    """Turn one CLDR short name (its "tts" annotation) into a `Name`.

    >>> parse_name("man: light skin tone, red hair").text
    'man with red hair and light skin tone'
    """
    head, _, tail = plain(tts).partition(": ")
    details = [detail for detail in tail.split(", ") if detail]
    tones = [detail for detail in details if detail.endswith("skin tone")]
    details = [detail for detail in details if detail not in tones]
    if head == "flag":
        concept = group = f"flag of {_country(tail)}"
        return Name(concept, concept, group)
    group = re.sub(r"\b(wo)?m[ae]n and |\b(wo)?m[ae]n( |$)|\b(person|people)( |$)", "", head).strip() or head
    concept = head
    link = " with "
    if head == "keycap":
        concept = group = f"keycap with {indefinite(tail)}"
    elif details and all(detail in PEOPLE for detail in details):
        concept = f"{head} of {_join([indefinite(detail) for detail in details])}"
    else:
        for detail in details:
            concept = HAIR.get(detail, "{} with " + detail).format(concept)
            group = f"{group} {detail}"
        link = " and " if " with " in concept else " with "
    return Name(concept + (link + _join(tones) if tones else ""), concept, group)


def _country(name: str) -> str:
    name = COUNTRIES.get(name, name)
    return f"the {name}" if name in THE_COUNTRIES or THE_COUNTRY.search(name) else name


def indefinite(noun: str) -> str:
    """`noun` with "a" or "an", by how its first word sounds."""
    first = noun.split()[0]
    vowel = first[0] in "aeiouAEIOU" and not VOWELS_WITH_A.match(first)
    return f"{'an' if vowel or first in LETTERS_WITH_AN else 'a'} {noun}"


def _head(name: str) -> str:
    """The noun that decides about the article: "button" of "AB button (blood type)", "bowl" of "bowl with spoon"."""
    last = re.sub(r" \(.*\)$", "", name).split()[-1]
    return last if last in LABELS else AFTER_HEAD.split(name)[0].split()[-1]


def is_plural(name: str) -> bool:
    """Whether one says "these are" of it: glasses, women with bunny ears; but not "person lifting weights"."""
    first, head = name.split()[0], _head(name)
    if first in PEOPLE or head in UNCOUNTED or UNCOUNTED_NAMES.match(name):
        return False
    return first in PLURALS or head in PLURALS or (head.endswith("s") and head[0].islower() and head not in SINGULAR_S)


def with_article(name: str) -> str:
    """`name` as it stands in a sentence: "a red apple", "an owl", "the flag of France"; "glasses" stays as it is.

    >>> with_article("woman and man holding hands"), with_article("fog"), with_article("Aries")
    ('a woman and a man holding hands', 'fog', 'Aries')
    """
    if name.startswith("flag of ") or name in THE_NAMES:
        return f"the {name}"
    if name.startswith("woman and man"):
        return name.replace("woman and man", "a woman and a man", 1)
    head = _head(name)
    if name.split()[0] in PEOPLE or head in LABELS:
        return indefinite(name)
    proper = head[0].isupper() and not head.endswith("-Rex")
    bare = is_plural(name) or proper or head in UNCOUNTED or UNCOUNTED_NAMES.match(name)
    return name if bare else indefinite(name)


def common_keywords(
    names: Mapping[str, str], keywords: Mapping[str, Iterable[str]], limit: int = 2
) -> dict[str, list[str]]:
    """The `limit` most shared keywords of every emoji that its name does not say already.

    Args:
        names: code -> name.
        keywords: code -> CLDR's keywords for it.

    Returns:
        code -> keywords, the most shared first; an empty list where nothing useful is left.
    """
    words_of = {code: {plain(word) for word in keywords.get(code, ())} for code in names}
    shared = Counter(word for words in words_of.values() for word in words)

    def useful(code: str, word: str) -> bool:
        return shared[word] >= COMMON and word not in VAGUE and word.lower() not in names[code].lower()

    def best(code: str) -> list[str]:
        words = [word for word in words_of[code] if useful(code, word)]
        return sorted(words, key=lambda word: (-shared[word], word))[:limit]

    return {code: best(code) for code in names}


def variants(name: str, keywords: Sequence[str], style: str) -> dict[str, str]:
    """The captions of one picture: with and without article, keywords, and the style said. No text comes twice."""
    article = with_article(name)
    texts = {
        "styled": f"{article}, {style} style",
        "article": article,
        "name": name,
        "name-styled": f"{name}, {style} style",
    }
    if keywords:
        listed = f"({', '.join(keywords)})"
        texts["keywords"] = f"{article} {listed}"
        texts["keywords-styled"] = f"{name} {listed}, {style} style"
    first_with = {text: variant for variant, text in reversed(texts.items())}
    return {variant: text for variant, text in texts.items() if first_with[text] == variant}
