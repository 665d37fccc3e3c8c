"""When an answer about a picture is right, by the rules of each benchmark. Pure functions on strings.

    vqa_accuracy("2", ["two"] * 4 + ["3"] * 6)     1.0     four of ten people said so
    yes_or_no("Yes, there is a dog.")              "yes"

Sources: VQA (Antol et al. 2015; visualqa.org/evaluation.html), TextVQA's EvalAI processor (github.com/facebookresearch/
mmf), POPE (github.com/RUCAIBox/POPE), MME (Fu et al. 2023, arXiv 2306.13394).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

_COUNT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(_COUNT)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# Contractions the official scorer restores when their apostrophe is missing; of two apostrophes either may be.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_an_apostrophe(word: str) -> list[str]:
    return [word[: match.start()] + word[match.end() :] for match in re.finditer("'", word)]


CONTRACTIONS = {broken: word for word in _CONTRACTIONS.split() for broken in _without_an_apostrophe(word)}
# Irregular entries of the official table.
CONTRACTIONS |= {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}


def normalise(answer: str) -> str:
    """An answer as the VQA scorer compares it: no punctuation, digits for number words, no articles, lower case."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    comma_in_number = re.search(r"\d,+\d", text) is not None
    spoken = text
    for mark in PUNCTUATION:
        # Beside a space a mark falls away; inside a word it becomes a space, unless the text holds a number like 1,000.
        beside_space = f"{mark} " in text or f" {mark}" in text
        spoken = spoken.replace(mark, "" if beside_space or comma_in_number else " ")
    spoken = re.sub(r"\.(?!\d)", "", spoken)
    words = (NUMBERS.get(word, word) for word in spoken.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise_text_vqa(answer: str) -> str:
    """TextVQA's rule: first commas and question marks fall away and "'s" stands apart, then as `normalise`."""
    return normalise(answer.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """How far people agree with `answer`: the mean over them of min(others who gave it / 3, 1).

    Args:
        answer: normalised.
        truths: one answer per person (ten in VQAv2 and TextVQA), normalised.
    """
    same = [truth == answer for truth in truths]
    total = sum(same)
    return sum(min((total - own) / 3, 1.0) for own in same) / len(same)


def exact_match(answer: str, truth: str) -> bool:
    """Equality but for case and punctuation (GQA as scored by lmms-eval)."""
    drop = str.maketrans("", "", string.punctuation)
    return answer.strip().lower().translate(drop) == truth.strip().lower().translate(drop)


def yes_or_no(answer: str) -> Literal["yes", "no"]:
    """POPE's rule: "no" if the first sentence holds the word No, no or not, else "yes"."""
    words = answer.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def mme_label(answer: str) -> Literal["yes", "no", "other"]:
    """MME's rule: yes or no, y or n, or either among the first four letters."""
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return "yes" if text == "y" else "no" if text == "n" else "other"
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"
