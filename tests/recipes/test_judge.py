"""The emoji report: the judge on made-up features, and the whole command on a few pictures with a tiny model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import report
from judge import Gallery, matches

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


def test_the_report_is_written_with_every_split_and_its_chance(tmp_path, monkeypatch):
    emoji = tmp_path / "emoji"
    (emoji / "images" / "3d").mkdir(parents=True)
    for file in report.SPLITS.values():
        lines = []
        for number in range(5):  # the last is not among the common things, and left out
            path = f"images/3d/{number}.png"
            Image.new("RGB", (64, 64), (50 * number, 10, 200)).save(emoji / path)
            fields = {"image": path, "text": f"thing {number}, 3D style", "name": f"thing {number}", "style": "3D"}
            fields |= {"concept": f"thing {number}", "variant": "styled", "split": "train"}
            lines.append(json.dumps(fields | {"common": number < 4}))
        (emoji / file).write_text("\n".join(lines))
    (emoji / "text_validation.jsonl").write_text(json.dumps({"text": "A few words of English."}) + "\n")
    (emoji / "stats.json").write_text("{}")
    monkeypatch.setattr(report, "load_features", lambda name: Brightness())
    monkeypatch.setattr(report, "CURVE", (1.0,))
    monkeypatch.setattr(report, "PROMPTS", ("sun", "pizza"))
    save_checkpoint(tiny_checkpoint("smollm"), tmp_path / "model")
    report.main(str(tmp_path / "model"), emoji, tmp_path / "docs", pictures=2, seeds=1, base=str(tmp_path / "model"))
    found = json.loads((tmp_path / "docs" / "demo.json").read_text())
    assert {row["split"] for row in found["rows"]} >= {*report.SPLITS, "before training", "after"}
    top = [row for row in found["rows"] if row["metric"] == "found, top-1" and row["split"] == "seen"]
    assert (top[0]["n"], top[0]["chance"]) == (2, 0.25)
    for name in ("demo_prompts.png", "demo_failures.png"):
        assert (tmp_path / "docs" / "images" / name).exists()
    assert "| found, top-1 | seen |" in (tmp_path / "docs" / "demo.md").read_text()
