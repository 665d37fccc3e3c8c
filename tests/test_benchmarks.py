"""The benchmarks run, and say the same things in the same form; how fast anything is, is not asked."""

import json

import pytest
import torch
from benchmarks import data, evaluation, generation, training, training_ways
from benchmarks.table import Row, Table, by_turns

from liquid_mm.checkpoint import load_checkpoint
from liquid_mm.vocab.prompts import Renderer

KEYS = {"case", "ours", "baseline", "ratio", "floor_fraction", "unit"}
TINY = training.QUICK | {"hidden_size": 32, "intermediate_size": 64}


def check(rows):
    """Each row can be read: numbers that are some, and a ratio where two are compared."""
    for row in rows:
        numbers = [row.ours, *(x for x in (row.baseline, row.ratio, row.floor_fraction) if x is not None)]
        assert all(number >= 0 for number in numbers), row
        assert row.ratio is None or row.ratio > 0, row


def test_rows_are_shown_and_kept_as_they_come(tmp_path, capsys):
    table = Table(tmp_path / "rows.json")
    for ratio in (2.0, None):
        table.add(Row("drawing", 1500.0, None if ratio is None else 3000.0, ratio, "ms/step", 0.25))
        kept = json.loads((tmp_path / "rows.json").read_text())
        assert [Row(**row) for row in kept] == table.rows
        assert set(kept[0]) == KEYS
    assert "1,500.00    3,000.00   2.00    25% ms/step" in capsys.readouterr().out


def test_turns_alternate():
    order = []
    assert by_turns(3, lambda: order.append("a") or len(order), lambda: order.append("b") or len(order)) == [3, 4]
    assert order == ["a", "b"] * 3


def test_training():
    rows = list(training.speed(TINY, 1100, 64, 4, 2))
    rows += training.feeding(TINY, 128, 2)
    rows += training.loss(200, 16, 32, 1)
    assert [row.case for row in rows][:3] == [
        "useful tokens at 64, 4 documents a step",
        "loader, one worker, against training",
        "longest wait for a batch, of a step",
    ]
    assert "loss of 32 x 200 against all logits" in [row.case for row in rows]
    check(rows)


def test_packing_loses_nothing_of_the_documents():
    documents = [torch.arange(10, 10 + n).numpy() for n in (5, 20, 11)]
    rows = training_ways.pack(documents, 32)
    assert rows["ids"].shape == (2, 32)
    assert sorted(rows["ids"][rows["segment_ids"] > 0].tolist()) == sorted(i for d in documents for i in d.tolist())


@pytest.mark.parametrize("way", ["release", "ours"])
def test_memory_of_both_ways_is_measured(way):
    # Logits of 64 MB are memory from the system, whatever this process has free.
    assert training.memory(way, TINY, 32768, 2, 256) > 32


def test_data(tmp_path):
    demo = load_checkpoint("demo", device="cpu")
    renderer = Renderer(demo.tokenizer, demo.vocabulary)
    codes = data.RandomCodes(demo.vocabulary.num_codes, demo.vocabulary.downsampling, demo.vocabulary.resolution)
    rows = list(data.loader(data.mixed_sets(tmp_path, codes, 40), renderer, 100.0))
    rows.append(data.tokenising(data.pictures(tmp_path / "pictures", 3), demo.image_tokenizer, 1))
    assert [row.unit for row in rows] == ["tokens/s", "%", "pictures/s"]
    assert rows[0].ratio == rows[0].ours / 100.0
    check(rows)


def test_generation():
    bench = generation.build("tiny", "cpu", torch.float32, 4, 1)
    rows = list(generation.drawing(bench, "tiny", [1, 2], 1e9))
    rows.append(generation.arriving(bench, "tiny"))
    assert [row.unit for row in rows] == ["ms/step", "pictures/s"] * 2 + ["requests/s"]
    assert rows[0].floor_fraction == generation.floor(bench, 1e9) / rows[0].ours
    check(rows)


def test_evaluation():
    lines = evaluation.measure("demo", 1, 1)
    assert [line["case"] for line in lines] == ["1 pictures", "1 answers", "EfficientNet-lite0 features"]
