"""Pictures put together of known ones, and questions about them: what is shown, what is held out, what is asked."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import random

import common
from captions import is_plural, with_article
from questions import count_questions, easy_vqa, thing_questions, view_counts
from scenes import DIRECTIONS, SHOWN_WITH, held_out, pair_records, several, stack

NAMES = [f"thing {letter}" for letter in "abcdefghijklmnopqrstuvwxyzäöü"]


@pytest.fixture
def things(tmp_path):
    """A record and a picture of one colour for each name."""
    records = []
    for number, name in enumerate(NAMES):
        image = f"images/3d/{number:04x}.png"
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (8 * number, 200, 100)).save(tmp_path / image)
        records.append({"image": image, "name": name, "style": "3D", "subgroup": "food-fruit", "id": f"{number:04x}"})
    return records


def test_pairs_are_held_out_in_both_orders_and_directions_and_their_parts_are_shown(things, tmp_path):
    files = pair_records(things, tmp_path)
    shown = {frozenset(record["parts"]) for record in files["train_pairs"]}
    tested = {frozenset(record["parts"]) for record in files["test_pairs"]}
    assert tested
    assert not shown & tested
    assert all(held_out(*pair) == held_out(*reversed(list(pair))) for pair in map(tuple, shown | tested))
    assert {name for pair in tested for name in pair} <= {name for pair in shown for name in pair}
    for direction in DIRECTIONS:
        mine = [record for record in files["train_pairs"] if record["direction"] == direction]
        assert 0 < len(mine) <= SHOWN_WITH * len(things)
    again = pair_records(things[::-1], tmp_path)  # the order of the things decides nothing but that of the records
    assert {record["id"] for record in again["test_pairs"]} == {record["id"] for record in files["test_pairs"]}


def test_a_pairs_picture_is_what_its_caption_says(things, tmp_path):
    record = pair_records(things, tmp_path)["train_pairs"][0]
    first, second = (NAMES.index(name) for name in record["parts"])
    with Image.open(tmp_path / record["image"]) as image:
        assert image.size == (32, 64)
        assert image.getpixel((5, 5)) == (8 * first, 200, 100)
        assert image.getpixel((5, 60)) == (8 * second, 200, 100)
    assert record["text"] == f"a {record['parts'][0]} above a {record['parts'][1]}, 3D style"
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert stack(red, blue, "beside").size == (8, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_quarters_are_filled_as_asked_for(count):
    image = several(Image.new("RGB", (32, 32), "red"), count, random.Random(count))
    filled = [image.getpixel((8 + 16 * x, 8 + 16 * y)) == (255, 0, 0) for x in (0, 1) for y in (0, 1)]
    assert (image.size, sum(filled)) == ((32, 32), count)


def test_questions_are_right_and_answered_as_often_by_yes_as_by_no(things):
    views = [record | {"image": f"views/{record['id']}-{n}.png"} for record in things for n in range(20)]
    asked = list(thing_questions(views))
    for record, kind in ((record, record["kind"]) for record in asked):
        (picture, words), answer = record["messages"][0]["content"], record["messages"][1]["content"][0]["text"]
        shown = next(view for view in views if view["image"] == picture["image"])
        true = shown["name"] in words["text"] if kind == "there" else "fruit" in words["text"]
        assert answer == f"I see {with_article(shown['name'])}, so {'yes' if true else 'no'}."
        assert record["answer"] == ("Yes." if true else "No.")
    for kind in ("there", "kind"):
        mine = [record["answer"] for record in asked if record["kind"] == kind]
        assert 0.4 < mine.count("Yes.") / len(mine) < 0.6


def test_counts_are_apart_from_their_tests(things, tmp_path):
    files = count_questions(things, tmp_path)
    images = {split: {r["messages"][0]["content"][0]["image"] for r in records} for split, records in files.items()}
    assert images["test"]
    assert not images["test"] & images["train"]
    single = [thing for thing in things if not is_plural(thing["name"])]
    assert len(images["test"] | images["train"]) == 4 * len(single) < 4 * len(things)


def test_altered_views_are_counted_but_not_as_many_as_the_test_asks_for(things, tmp_path):
    tested = {(record["concept"], record["answer"]) for record in count_questions(things, tmp_path)["test"]}
    views = []
    for thing in things:
        for number in range(20):
            image = f"views_wide/3d/{Path(thing['image']).stem}-{number}.png"
            (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), "red").save(tmp_path / image)
            views.append(thing | {"image": image})
    asked = list(view_counts(views, tmp_path))
    assert {record["answer"] for record in asked} == {"One.", "Two.", "Three.", "Four."}
    assert not tested & {(record["concept"], record["answer"]) for record in asked}
    for record in asked:
        with Image.open(tmp_path / record["messages"][0]["content"][0]["image"]) as image:
            filled = [image.getpixel((8 + 16 * x, 8 + 16 * y)) == (255, 0, 0) for x in (0, 1) for y in (0, 1)]
        assert ("One.", "Two.", "Three.", "Four.")[sum(filled) - 1] == record["answer"]


def test_easy_vqa_is_taken_by_kind_from_its_own_splits(tmp_path):
    pytest.importorskip("easy_vqa")
    asked = easy_vqa("test", tmp_path)
    kinds = [record["kind"] for record in asked]
    assert kinds.count("easy-VQA, yes or no") == kinds.count("easy-VQA, colour or shape") == len(asked) / 2
    for record in asked:
        image = record["messages"][0]["content"][0]["image"]
        assert image.startswith("easy_vqa/test/")
        assert (tmp_path / image).exists()
        assert (record["answer"] in ("Yes.", "No.")) == (record["kind"] == "easy-VQA, yes or no")


def test_pictures_kept_for_the_test_are_in_no_training_file(things, tmp_path):
    pytest.importorskip("easy_vqa")
    records = {style: [] for style in ("3d", "noto", "twemoji")}
    for style, found in records.items():
        for thing in things:
            image = thing["image"].replace("/3d/", f"/{style}/")
            (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / image).write_bytes((tmp_path / thing["image"]).read_bytes())
            found.append(thing | {"image": image, "common": True, "variant": "styled", "text": thing["name"]})
    codes = [record["id"] for record in things]
    others = ("flat", "blob", "emojione", "firefox", "streamline", "openmoji")
    for style in others:
        for code in codes:
            image = tmp_path / f"images/{style}/{code}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes((tmp_path / things[0]["image"]).read_bytes())
    made = common.common_files(
        {f"train_{style}": found for style, found in records.items()}, dict.fromkeys(others, codes), tmp_path
    )
    assert {record["image"] for record in made["test_style"]} == {f"images/openmoji/{code}.png" for code in codes}
    tested = {record["image"] for record in made["test_pictures"]}
    assert {image.split("/")[1] for image in tested} == {"twemoji", "flat", "blob"}

    def sources(pictures):  # a view is named after its picture: views_wide/flat/0001-3.png
        return {
            "images/" + picture.split("/", 1)[1].split("-")[0].removesuffix(".png") + ".png" for picture in pictures
        }

    def images(value):  # wherever they stand in a record or a conversation
        if isinstance(value, dict):
            own = [value["image"]] if isinstance(value.get("image"), str) else []
            return own + [image for part in value.values() for image in images(part)]
        return [image for part in value for image in images(part)] if isinstance(value, list) else []

    for name, records in made.items():
        if not name.startswith("test_"):
            shown = sources(images(records))
            assert shown
            assert not shown & tested, name
            assert not any("openmoji" in image for image in shown), name
    asked = {"train_questions", "train_questions_wide", "train_questions_styles"}
    for name in asked:
        assert sources(images(made[name])) & sources(images(made["train_common"]))

    known = {"there, known picture": set(), "kind, known picture": set(), "there": set(), "kind": set()}
    for record in made["test_questions"]:
        if record["kind"] in known:
            known[record["kind"]].add(record["messages"][0]["content"][0]["image"])
    common_pictures = {record["image"] for name in made if name.startswith("train_common") for record in made[name]}
    assert known["there, known picture"] == common_pictures
    assert known["kind, known picture"] <= common_pictures
    assert known["kind"] <= known["there"] == tested
    asked_as_they_are = {r["messages"][0]["content"][0]["image"] for name in asked for r in made[name]}
    assert not asked_as_they_are & common_pictures
