import dataclasses
import functools

import pytest
import torch

from liquid_mm.errors import UserError
from liquid_mm.generate import engine as engine_module
from liquid_mm.generate import reference
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.grammar import ImageTask, TextTask
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling import SamplingConfig
from tiny import FAMILIES, tiny_liquid

GREEDY = SamplingConfig(top_k=1)
# Prompts of these lengths in one batch; the longest exceeds the tiny Gemma 2's and 3's window of 64.
LENGTHS = (3, 30, 90)


@functools.cache
def model(family):
    llm, tokenizer, vocabulary = tiny_liquid(family)
    with torch.no_grad():
        # As they are drawn, the layers hardly change the last token's embedding, and every prompt would give the same.
        for parameter in llm.parameters():
            if parameter.ndim == 2 and parameter is not llm.get_output_embeddings().weight:
                parameter *= 10
        llm.get_input_embeddings().weight *= 0.1
    return llm, tokenizer, vocabulary


def prompt(length: int, *end: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(length)
    return (*torch.randint(20, 250, (length,), generator=generator).tolist(), *end)


def picture(vocabulary, length=3, size=(32, 32), scale=1.0, seed=0, **sampling) -> Request:
    unconditional = prompt(2, vocabulary.unconditional, vocabulary.boi)
    config = SamplingConfig(**{"top_k": 1, **sampling}, guidance_scale=scale)
    return Request(prompt(length, vocabulary.boi), seed, image=ImageTask(vocabulary.grid(size), config, unconditional))


def text(length=3, tokens=12, stop=(), seed=0, **sampling) -> Request:
    return Request(prompt(length), seed, text=TextTask(tokens, SamplingConfig(**sampling), frozenset(stop)))


def small_text(vocabulary):
    """The same model's vocabulary with so few text ids that `<boi>` is often drawn."""
    return dataclasses.replace(vocabulary, text_size=30, boi=20, eoi=21, unconditional=22, bos=None, eos=23, pad=24)


def reply(vocabulary, scale=3.0, seed=0, max_images=2) -> Request:
    # So hot that every text id is about equally likely.
    hot = SamplingConfig(temperature=1e6)
    unconditional = (vocabulary.unconditional, vocabulary.boi)
    drawing = ImageTask((2, 3), SamplingConfig(guidance_scale=scale), unconditional, max_images)
    return Request(prompt(10), seed, image=drawing, text=TextTask(24, hot, frozenset()))


def simplify(result):
    return [part if isinstance(part, tuple) else part.tolist() for part in result.parts]


def assert_equals_reference(llm, vocabulary, requests, max_batch=16):
    results = Engine(llm, vocabulary, max_batch).run(requests)
    expected = [reference.generate(llm, vocabulary, request) for request in requests]
    assert [simplify(r) for r in results] == [simplify(r) for r in expected]
    return results


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scale", "size"), [(1.0, (32, 32)), (7.0, (32, 32)), (3.0, (48, 16))])
def test_greedy_codes_equal_the_reference_in_every_family(family, scale, size):
    llm, _, vocabulary = model(family)
    requests = [picture(vocabulary, length, size, scale) for length in LENGTHS]
    results = assert_equals_reference(llm, vocabulary, requests)
    assert all(result.codes.shape == (size[1] // 8, size[0] // 8) for result in results)
    assert len({result.codes.tobytes() for result in results}) > 1, "the prompts make no difference: a weak test"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_batch_of_everything_equals_the_reference(family):
    llm, _, vocabulary = model(family)
    requests = [
        picture(vocabulary, 3, (16, 16), 7.0, seed=1, top_k=8),
        text(90, seed=2, temperature=1.5),
        picture(vocabulary, 30, (24, 32), 1.0, seed=3, top_k=None, top_p=0.9, temperature=0.7),
        text(5, seed=4, top_k=1),
        picture(vocabulary, 12, (48, 16), 3.0, seed=5, top_k=None),
    ]
    assert_equals_reference(llm, vocabulary, requests)


@pytest.mark.parametrize(("family", "scale"), [("smollm", 1.0), ("smollm", 3.0), ("gemma3", 3.0), ("gpt2", 3.0)])
def test_a_reply_with_pictures_equals_the_reference(family, scale):
    llm, _, vocabulary = model(family)
    vocabulary = small_text(vocabulary)
    requests = [reply(vocabulary, scale, seed) for seed in (1, 4, 5)]
    results = assert_equals_reference(llm, vocabulary, [*requests, text(40)])
    kinds = [type(part) for result in results[:3] for part in result.parts]
    assert kinds.count(tuple) >= 3
    assert len(kinds) - kinds.count(tuple) >= 2, "the seeds open too few pictures: a weak test"


@pytest.mark.parametrize("max_batch", [1, 3, 5])
def test_requests_that_must_wait_get_the_same(max_batch):
    llm, _, vocabulary = model("smollm")
    vocabulary = small_text(vocabulary)
    requests = [picture(vocabulary, n, (16, 16), 7.0 if n % 2 else 1.0, seed=n, top_k=None) for n in range(1, 6)]
    assert_equals_reference(llm, vocabulary, [*requests, reply(vocabulary)], max_batch)


def test_a_seed_alone_decides_whatever_shares_the_batch():
    llm, _, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    mine = picture(vocabulary, seed=5, scale=2.0, top_k=None)
    (alone,) = engine.run([mine])
    *_, together = engine.run([picture(vocabulary, 20, seed=1, top_k=None), text(30, seed=5), mine])
    (other,) = engine.run([picture(vocabulary, seed=6, scale=2.0, top_k=None)])
    assert simplify(together) == simplify(alone)
    assert simplify(other) != simplify(alone)


def test_text_holds_no_codes_and_stops(monkeypatch):
    llm, _, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    (full,) = engine.run([text(tokens=200, temperature=1e6)])
    assert len(full.ids) == 200
    assert max(full.ids) < vocabulary.text_size
    stop = full.ids[20]
    (short,) = engine.run([text(tokens=200, temperature=1e6, stop=[stop])])
    assert short.ids == full.ids[: full.ids.index(stop)]


def test_rows_are_two_only_while_guided(monkeypatch):
    llm, _, vocabulary = model("smollm")
    rows = []

    class Counting(engine_module.Batch):
        def decode_one(self, tokens):
            rows.append(len(tokens))
            super().decode_one(tokens)

    monkeypatch.setattr(engine_module, "Batch", Counting)
    engine = Engine(llm, vocabulary)
    engine.run([picture(vocabulary, size=(16, 16))])
    assert rows == [1, 1, 1], "guidance 1 makes no second row, and the last code is not fed"
    rows.clear()
    engine.run([picture(vocabulary, size=(16, 16), scale=2.0), picture(vocabulary, size=(24, 16), scale=1.0)])
    assert rows == [3, 3, 3, 1, 1], "a finished picture's rows leave the batch"


def test_every_id_is_an_event():
    llm, _, vocabulary = model("smollm")
    events = []
    requests = [picture(vocabulary, size=(16, 16), scale=2.0), text(tokens=3, top_k=1)]
    results = Engine(llm, vocabulary).run(requests, events.append)
    drawn = [event for event in events if event.index == 0]
    assert [event.token - vocabulary.code_offset for event in drawn] == results[0].codes.ravel().tolist()
    assert [(event.modality, event.done) for event in drawn] == [("image", False)] * 3 + [("image", True)]
    assert [event.token for event in events if event.index == 1] == results[1].ids


def test_a_request_beyond_the_context_is_refused_before_anything_runs():
    llm, _, vocabulary = model("gpt2")
    events = []
    engine = Engine(llm, vocabulary)
    with pytest.raises(UserError, match="context of 512"):
        engine.run([text(), picture(vocabulary, 500)], events.append)
    assert not events
    # Text is cut where the context ends, up to the last position.
    (result,) = engine.run([text(508, tokens=50)])
    assert len(result.ids) == 4
    assert_equals_reference(llm, vocabulary, [picture(vocabulary, 495)])
