"""The emoji report: the judge on made-up features, and the whole command on a few pictures with a tiny model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import measures
import report
from judge import Gallery, matches
from questions import question
from scenes import stack

from liquid_mm.checkpoint import save_checkpoint
from tiny_checkpoint import tiny_checkpoint


def test_a_drawing_is_ranked_among_the_pictures_of_its_style():
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.01]])
    gallery = Gallery(features, ["3D", "3D", "3D", "3D", "Noto"])
    exact = gallery.ranks(features, [0, 1, 2, 3, 4])
    assert exact.tolist() == [0, 0, 0, 0, 0]
    between = np.array([[0.9, 0.5]])  # nearer to the first than to the second
    assert gallery.ranks(between, [0]).tolist() == [0]
    assert gallery.ranks(between, [1]).tolist() == [1]
    assert gallery.ranks(between, [3])[0] >= 2
    assert gallery.chance([0, 4], 1) == pytest.approx((1 / 4 + 1) / 2)


def test_ties_count_against_the_drawing():
    gallery = Gallery(np.array([[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]]), ["3D"] * 3)
    assert gallery.ranks(np.array([[1.0, 0.0]]), [0]).tolist() == [1]


@pytest.mark.parametrize(
    ("said", "name", "expected"),
    [
        ("a red apple, 3D style", "red apple", (True, True)),
        ("An owl.", "owl", (True, True)),
        ("a green apple", "red apple", (False, True)),
        ("the sun", "moon", (False, False)),
        ("a red apple (food, fruit)", "red apple", (True, True)),
        ("", "red apple", (False, False)),
    ],
)
def test_captions_match_exactly_or_by_a_word(said, name, expected):
    assert matches(said, name) == expected


class Brightness:
    """Stands in for the judge's network: a few numbers of a picture."""

    name = "brightness"

    def __call__(self, images):
        small = [np.asarray(image.convert("RGB").resize((2, 2)), float).ravel() for image in images]
        return np.stack(small)


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


COLOURS = ("red", "lime", "blue", "black", "white")  # as seen from their mean, in different directions


@pytest.fixture
def emoji(tmp_path):
    """What `build.py` writes, as far as the report reads it: five things of one colour each."""
    folder = tmp_path / "emoji"
    for file in {*measures.DESCRIBED.values(), *filter(None, (among for _, among in measures.DRAWN.values()))}:
        records = []
        for number in range(5):  # the last is not among the common things, and left out
            path = f"images/3d/{number}.png"
            save(folder / path, COLOURS[number])
            fields = {"image": path, "text": f"thing {number}, 3D style", "name": f"thing {number}", "style": "3D"}
            fields |= {"concept": f"thing {number}", "variant": "styled", "split": "train"}
            records.append(fields | {"common": number < 4})
        write_jsonl(folder / file, records)
    for file in ("train_pairs", "test_pairs"):
        pairs = []
        for direction, size in (("above", (64, 128)), ("beside", (128, 64))):
            save(folder / f"{direction}.png", "white", size)
            fields = {"image": f"{direction}.png", "text": f"thing 0 {direction} thing 1", "direction": direction}
            pairs += [fields | {"parts": ["thing 0", "thing 1"]}, fields | {"parts": ["thing 2", "thing 3"]}]
        write_jsonl(folder / f"{file}.jsonl", pairs)
    asked = [
        question("images/3d/0.png", "How many are there?", word, "count", concept="thing")
        for word in ("One.", "One.", "Two.")
    ]
    write_jsonl(folder / "test_questions.jsonl", asked)
    write_jsonl(folder / "text_validation.jsonl", [{"text": "A few words of English."}])
    (folder / "stats.json").write_text("{}")
    return folder


def save(path, colour, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_report_is_written_with_every_split_and_its_chance(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "load_features", lambda name: Brightness())
    monkeypatch.setattr(measures, "CURVE", (1.0,))
    monkeypatch.setattr(report, "PROMPTS", ("sun", "pizza"))
    save_checkpoint(tiny_checkpoint("smollm"), tmp_path / "model")
    report.main(str(tmp_path / "model"), emoji, tmp_path / "docs", pictures=2, seeds=1, base=str(tmp_path / "model"))
    found = json.loads((tmp_path / "docs" / "demo.json").read_text())
    splits = {row["split"] for row in found["rows"]}
    assert splits >= {*measures.DRAWN, *measures.DESCRIBED, "before training", "after", "count"}
    assert {"seen pair, one above the other", "unseen pair, one beside the other"} <= splits
    top = [row for row in found["rows"] if row["metric"] == "found, top-1" and row["split"] == "seen"]
    assert (top[0]["n"], top[0]["chance"]) == (2, 0.25)
    both = [row for row in found["rows"] if row["metric"] == "found, top-1, both"]
    assert {row["chance"] for row in both} == {0.25**2}
    for name in ("demo_prompts.png", "demo_pairs.png", "demo_worst.png", "demo_failures.png"):
        assert (tmp_path / "docs" / "images" / name).exists()
    assert "| found, top-1 | seen |" in (tmp_path / "docs" / "demo.md").read_text()


def test_the_worst_drawings_of_what_was_seen_are_shown_one_for_each_thing(monkeypatch):
    def judged(split, prompt, rank):
        drawn, wanted = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
        return measures.Judged(split, prompt, rank, drawn, wanted)

    shown = []
    monkeypatch.setattr(report, "contact_sheet", lambda cells, **options: shown.extend(cells))
    things = [judged("seen", f"thing {n}", n) for n in range(10)] + [judged("seen", "thing 9", 30)]
    report.show_worst([*things, judged("unseen concept", "nothing", 99)] + [
        judged(split, "rose", 4) for split in ("seen, Noto style", "seen, Twemoji style")
    ])  # fmt: skip
    texts = [text for _, text in shown]
    assert texts[:8] == [f"thing {n}" for n in range(9, 1, -1)]
    assert texts[8:16] == [f"place {n}" for n in (31, 9, 8, 7, 6, 5, 4, 3)]
    assert texts[16:] == ["rose", *[""] * 7, "place 5", *[""] * 7] * 2
    assert {image.getpixel((0, 0)) for image, _ in shown[:8]} == {(0, 0, 255)}
    assert {image.getpixel((0, 0)) for image, _ in shown[8:16]} == {(255, 0, 0)}


def test_a_pair_counts_where_both_halves_are_right(emoji, monkeypatch):
    """A model that draws every pair as it should be, then one that swaps the halves."""
    halves = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    swapped = []  # holds something while the model swaps them

    def draw(model, prompts, seed, guidance, size):
        # `some` shuffles two records of a direction in the same way wherever they come from.
        wanted = [record["parts"] for record in measures.some(pairs_of(size), 2)]
        numbers = [[int(name.split()[1]) for name in names] for names in wanted]
        return [stack(*(halves[n] for n in (pair[::-1] if swapped else pair)), direction_of(size)) for pair in numbers]

    def direction_of(size):
        return "above" if size[1] > size[0] else "beside"

    def pairs_of(size):
        return [r for r in measures.read(emoji / "test_pairs.jsonl") if r["direction"] == direction_of(size)]

    monkeypatch.setattr(measures, "draw", draw)
    monkeypatch.setattr(measures, "TOPS", (1,))
    for value in (1.0, 0.0):
        rows = measures.Report()
        measures.measure_pairs(None, Brightness(), emoji, 2, 2, rows)
        assert [row["value"] for row in rows.rows] == [value] * 4
        swapped.append(True)


def test_answers_are_set_against_the_commonest_one(emoji, monkeypatch):
    monkeypatch.setattr(measures, "answer", lambda model, questions, most: ["I count two"] * len(questions))
    rows = measures.Report()
    measures.measure_questions(None, emoji, 3, rows)
    (row,) = rows.rows
    assert (row["value"], row["chance"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
