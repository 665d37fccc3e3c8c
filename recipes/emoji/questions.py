"""Short questions about a picture, as conversations: what kind of thing it is, how many there are, colour and shape.

    [picture] Is this an animal?       I see a cat face, so yes.    from Unicode's groups, put right
    [picture] Is there a rocket?       I see a cat face, so no.     half of these ask for what is there
    [picture] How many are there?      Three.      `scenes.several`
    [picture] What color is the shape? Blue.       easy-VQA: 64×64 pictures of coloured shapes with their own test split

What it sees comes first where the answer hangs on it: asked for yes or no alone, a model that named 98 % of the
pictures was right half of the time. The last word is the answer. Each question has a "kind" beside its messages, by
which the report sorts its answers, and the "concept" it is about.
"""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from captions import is_plural, with_article
from scenes import COUNTED, count_picture, count_pictures
from splits import share

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file

Record = dict[str, Any]

KINDS = {
    "animal-mammal": "an animal",
    "food-fruit": "a fruit",
    "food-sweet": "something sweet",
    "plant-flower": "a flower",
    "transport-ground": "a vehicle",
    "heart": "a heart",
}
# Unicode's subgroups are not quite kinds.
OTHER_KINDS = {
    **dict.fromkeys(("butterfly", "tropical fish"), "an animal"),
    **dict.fromkeys(("airplane", "rocket"), "a vehicle"),
    **dict.fromkeys(("bus stop", "construction", "fuel pump", "love letter", "paw prints", "pig nose", "tomato"), None),
}
# What one could say yes or no to is not asked.
DOUBTFUL = {
    "paw prints": ("an animal",),
    "pig nose": ("an animal",),
    "love letter": ("a heart",),
    "tomato": ("a fruit", "something sweet"),
}
WORDS = ("One.", "Two.", "Three.", "Four.")
TEST_COUNTS = 0.15  # of (thing, style, count)
EASY_VQA = {"train": 4000, "test": 300}  # questions taken of each split, half of them of each kind
YES_OR_NO, OPEN = "easy-VQA, yes or no", "easy-VQA, colour or shape"


def question(image: str, text: str, answer: str, kind: str, *, seen: str | None = None, **more: Any) -> Record:
    """A conversation of one question and its answer, before which it may say what it has `seen`."""
    said = answer if seen is None else f"I see {seen}, so {answer.lower()}"
    asked = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
    ]
    return {"messages": messages, "kind": kind, "answer": answer, **more}


def kind_of(record: Record) -> str | None:
    """What kind of thing a picture shows, as a question has it; None for kinds that are not asked for."""
    name = record["name"]
    return OTHER_KINDS[name] if name in OTHER_KINDS else KINDS.get(record["subgroup"])


def thing_questions(views: Sequence[Record]) -> Iterator[Record]:
    """One or two questions about every picture of one thing, answered about as often by yes as by no.

    Args:
        views: records with "image", "name" and "subgroup"; what is asked for in vain comes from the others.
    """
    names = sorted({record["name"] for record in views})
    for record in views:
        image, shown, own = record["image"], record["name"], kind_of(record)
        seen = with_article(shown)
        doubtful = (*DOUBTFUL.get(shown, ()), *(("something sweet",) if own == "a fruit" else ()))
        others = [kind for kind in KINDS.values() if kind != own and kind not in doubtful]
        chance = share("asked kind", image)
        kind = own if own and chance < 0.5 else others[int(share("which kind", image) * len(others))]
        if own or chance < 0.2:  # what has no kind of its own is always "no": not too many of those
            text = (
                f"Are these {kind.split()[-1]}s?"
                if is_plural(shown) and kind != "something sweet"
                else f"Is this {kind}?"
            )
            yield question(image, text, "Yes." if kind == own else "No.", "kind", seen=seen, concept=shown)
        # A shooting star is a star: names that hold each other's words are not asked for in vain.
        others = [name for name in names if not (words(name) <= words(shown) or words(shown) <= words(name))]
        there = share("asked name", image) < 0.5 or not others
        name = shown if there else others[int(share("which name", image) * len(others))]
        verb = "Are" if is_plural(name) else "Is"
        text = f"{verb} there {with_article(name)}?"
        yield question(image, text, "Yes." if there else "No.", "there", seen=seen, concept=shown)


def words(name: str) -> set[str]:
    """The words of a name."""
    return set(name.split())


def count_questions(things: Sequence[Record], out: Path) -> dict[str, list[Record]]:
    """Write pictures of one to four equal things; returns {"train": […], "test": […]}."""
    files: dict[str, list[Record]] = {"train": [], "test": []}
    single = [thing for thing in things if not is_plural(thing["name"])]  # how many are two hearts, twice?
    for thing, count, image in count_pictures(single, out):
        split = "test" if _tested_count(image) else "train"
        record = question(image, "How many are there?", WORDS[count - 1], "count", concept=thing["name"])
        files[split].append(record)
    return files


def _tested_count(image: str) -> bool:
    """Whether this picture of `count_pictures` is kept for the test."""
    return share("count", image) < TEST_COUNTS


def view_counts(views: Iterable[Record], out: Path) -> Iterator[Record]:
    """Write pictures of one to four copies of altered views, and ask how many there are.

    Nothing is asked whose unaltered picture is in `test_questions.jsonl`: so many of this thing in this style.
    """
    for record in views:
        style, code = Path(record["image"]).parent.name, Path(record["image"]).stem.split("-")[0]
        count = 1 + int(COUNTED * share("how many", record["image"]))
        if is_plural(record["name"]) or _tested_count(f"counts/{style}/{code}-{count}.png"):
            continue
        image = count_picture(record["image"], count, out, "counts_wide")
        yield question(image, "How many are there?", WORDS[count - 1], "count", concept=record["name"])


def single_questions(views: Iterable[Record]) -> Iterator[Record]:
    """`How many are there?` of one thing: who has counted only small copies of things calls one large thing three."""
    for record in views:
        if not is_plural(record["name"]):
            yield question(record["image"], "How many are there?", WORDS[0], "count", concept=record["name"])


def easy_vqa(split: str, out: Path) -> list[Record]:
    """Questions of easy-VQA (https://github.com/vzhou842/easy-VQA), chosen by a hash; pictures are copied to `out`.

    Raises:
        UserError: the package is not installed.
    """
    try:
        data = Path(str(importlib.resources.files("easy_vqa"))) / "data" / split
    except ModuleNotFoundError as error:
        raise UserError("the questions need the package easy-vqa: `pip install --no-deps easy-vqa==1.0`.") from error
    asked = json.loads((data / "questions.json").read_text(encoding="utf-8"))
    asked.sort(key=lambda item: share("easy-vqa", split, item[0], str(item[2])))
    by_kind: dict[str, list[Any]] = {YES_OR_NO: [], OPEN: []}
    for item in asked:
        by_kind[YES_OR_NO if item[1] in ("yes", "no") else OPEN].append(item)
    records = []
    for kind, (text, answer, number) in (
        (kind, item) for kind, items in by_kind.items() for item in items[: EASY_VQA[split] // 2]
    ):
        image = f"easy_vqa/{split}/{number}.png"
        if not (out / image).exists():
            (out / image).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(out / image) as part:
                shutil.copyfile(data / "images" / f"{number}.png", part)
        records.append(question(image, f"{text[0].upper()}{text[1:]}", f"{answer.capitalize()}.", kind, concept=image))
    return records
