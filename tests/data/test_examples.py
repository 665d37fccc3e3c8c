from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from liquid_mm.data import examples
from liquid_mm.data.examples import CAPTION, CODE, NONE, TEXT, ExampleMaker, draw, modality, windows
from liquid_mm.errors import UserError
from liquid_mm.vocab.prompts import INSTRUCTIONS
from liquid_mm.vocab.records import Chat, ImageToText, Message, Text, TextToImage

CODES = np.array([[5, 6], [7, 8]])
PAIR = TextToImage("a red disc", CODES)


def drawn(record, vocabulary, count: int = 4000, **shares):
    shares = {"reversal": 0.2, "unconditional": 0.1, "paraphrase": True, **shares}
    return [draw(record, np.random.default_rng(n), vocabulary, **shares) for n in range(count)]


def test_shares_are_those_asked_for(vocabulary):
    tasks = drawn(PAIR, vocabulary)
    images = [task for task in tasks if isinstance(task, TextToImage)]
    # Four standard deviations of a share p of n draws are 4·sqrt(p(1-p)/n).
    assert abs((len(tasks) - len(images)) / len(tasks) - 0.2) < 0.026
    assert abs(np.mean([task.unconditional for task in images]) - 0.1) < 0.022
    assert {task.instruction for task in images} == set(INSTRUCTIONS)


def test_shares_of_zero_and_one_are_exact(vocabulary):
    certain = drawn(PAIR, vocabulary, 50, reversal=0, unconditional=0, paraphrase=False)
    assert all(task == PAIR for task in certain)
    assert all(isinstance(task, ImageToText) for task in drawn(PAIR, vocabulary, 50, reversal=1))
    assert all(task.unconditional for task in drawn(PAIR, vocabulary, 50, reversal=0, unconditional=1))
    assert drawn(Text("once"), vocabulary, 5, reversal=1) == [Text("once")] * 5


def test_only_another_size_than_the_models_own_is_stated(vocabulary):
    wide = dataclasses.replace(PAIR, codes=np.zeros((2, 3), dtype=int))
    keep = {"reversal": 0, "unconditional": 0, "paraphrase": False}
    assert drawn(PAIR, vocabulary, 1, **keep)[0].size is None
    assert drawn(wide, vocabulary, 1, **keep)[0].size == (48, 32)


def test_modalities_written_out(renderer, vocabulary):
    boi, eoi, eos = vocabulary.boi, vocabulary.eoi, vocabulary.eos

    def targets(record):
        rendered = renderer.render(record)
        kinds = modality(record, rendered, vocabulary)
        assert (kinds[~rendered.loss_mask] == NONE).all()
        return [(int(i), int(k)) for i, k in zip(rendered.ids, kinds, strict=True) if k]

    codes = [(768 + code, CODE) for code in (5, 6, 7, 8)]
    assert targets(PAIR) == [*codes, (eoi, CODE), (eos, CODE)]
    caption = targets(ImageToText(CODES, "a cat"))
    assert {kind for _, kind in caption} == {CAPTION}
    assert caption[-1] == (eos, CAPTION)
    assert {kind for _, kind in targets(Text("once upon"))} == {TEXT}
    reply = targets(Chat((Message("user", ("Draw.",)), Message("assistant", ("Here:", CODES)))))
    where = [number for number, (_, kind) in enumerate(reply) if kind == CODE]
    assert [reply[n] for n in where] == [*codes, (eoi, CODE)]
    assert reply[where[0] - 1] == (boi, TEXT)
    assert {kind for number, (_, kind) in enumerate(reply) if number not in where} == {TEXT}


@pytest.mark.parametrize(
    ("total", "length", "count"), [(10, 10, 1), (11, 10, 2), (19, 10, 2), (20, 10, 3), (2, 2, 1), (5, 2, 4)]
)
def test_windows_learn_every_token_exactly_once(total, length, count):
    whole = {
        "ids": np.arange(total),
        "loss_mask": np.ones(total, dtype=bool),
        "modality": np.full(total, TEXT, dtype=np.int8),
        "source": 1,
        "record": 4,
    }
    parts = list(windows(whole, length))
    assert len(parts) == count
    assert all(2 <= len(part["ids"]) <= length for part in parts)
    learnt = np.concatenate([part["ids"][part["loss_mask"]] for part in parts])
    np.testing.assert_array_equal(learnt, np.arange(total))
    for before, after in itertools.pairwise(parts):
        assert before["ids"][-1] == after["ids"][0]
        assert after["modality"][0] == NONE
    assert {(part["source"], part["record"]) for part in parts} == {(1, 4)}
    assert whole["loss_mask"].all(), "the document itself is untouched"


def test_a_long_document_is_cut_and_a_long_pair_left_out_aloud(renderer, caplog):
    make = ExampleMaker(renderer, 40, ("stories", "pairs"))
    assert len(make(0, 5, Text("the duck swims " * 20))) > 1
    assert make(1, 6, TextToImage("the duck swims " * 20, CODES)) == []
    assert make(1, 7, TextToImage("the duck swims " * 20, CODES)) == []
    (one,) = make(1, 8, PAIR)
    assert (one["source"], one["record"]) == (1, 8)
    assert make.skipped == {"pairs": 2}
    assert [record.message.split(":")[0] for record in caplog.records] == ["pairs"], "logged once"


def test_when_most_do_not_fit_it_is_an_error(renderer, monkeypatch):
    monkeypatch.setattr(examples, "ENOUGH_TO_JUDGE", 10)
    make = ExampleMaker(renderer, 12, ("pairs",))
    assert [make(0, 0, PAIR) for _ in range(9)] == [[]] * 9
    with pytest.raises(UserError, match=r"10 of 10 records are longer than seq_len 12 .*from pairs"):
        make(0, 0, PAIR)
