import dataclasses

import pytest
from enginekit import (
    LENGTHS,
    MORE,
    assert_equals_reference,
    model,
    picture,
    reply,
    simplify,
    small_text,
    text,
)
from transformers import Phi3Config

from liquid_mm.errors import UserError
from liquid_mm.generate.engine import Engine, context_length
from tiny import FAMILIES


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
@pytest.mark.parametrize(("scale", "size"), [(1.0, (32, 32)), (7.0, (32, 32)), (3.0, (48, 16))])
def test_greedy_codes_equal_the_reference_in_every_family(family, scale, size):
    llm, vocabulary = model(family)
    requests = [picture(vocabulary, length, size, scale) for length in LENGTHS]
    results = assert_equals_reference(llm, vocabulary, requests)
    assert all(result.codes.shape == (size[1] // 8, size[0] // 8) for result in results)
    assert len({result.codes.tobytes() for result in results}) > 1, "the prompts make no difference: a weak test"


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_one_batch_of_everything_equals_the_reference(family):
    llm, vocabulary = model(family)
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
    llm, vocabulary = model(family)
    vocabulary = small_text(vocabulary)
    requests = [reply(vocabulary, scale, seed) for seed in (1, 4, 5)]
    results = assert_equals_reference(llm, vocabulary, [*requests, text(40)])
    kinds = [type(part) for result in results[:3] for part in result.parts]
    assert kinds.count(tuple) >= 3
    assert len(kinds) - kinds.count(tuple) >= 2, "the seeds open too few pictures: a weak test"


@pytest.mark.parametrize("max_batch", [1, 3, 5])
def test_requests_that_must_wait_get_the_same(max_batch):
    llm, vocabulary = model("smollm")
    vocabulary = small_text(vocabulary)
    requests = [picture(vocabulary, n, (16, 16), 7.0 if n % 2 else 1.0, seed=n, top_k=None) for n in range(1, 6)]
    assert_equals_reference(llm, vocabulary, [*requests, reply(vocabulary)], max_batch)


def test_a_seed_alone_decides_whatever_shares_the_batch():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    mine = picture(vocabulary, seed=5, scale=2.0, top_k=None)
    (alone,) = engine.run([mine])
    *_, together = engine.run([picture(vocabulary, 20, seed=1, top_k=None), text(30, seed=5), mine])
    (other,) = engine.run([picture(vocabulary, seed=6, scale=2.0, top_k=None)])
    assert simplify(together) == simplify(alone)
    assert simplify(other) != simplify(alone)


def test_text_holds_no_codes_and_stops(monkeypatch):
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    (full,) = engine.run([text(tokens=200, temperature=1e6)])
    assert len(full.ids) == 200
    assert max(full.ids) < vocabulary.text_size
    stop = full.ids[20]
    (short,) = engine.run([text(tokens=200, temperature=1e6, stop=[stop])])
    assert short.ids == full.ids[: full.ids.index(stop)]


def test_rows_are_two_only_while_guided(monkeypatch):
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    steps = []

    def count(rows, ids, starts, least=1, forward=engine._runner.forward_all):
        # Prefill feeds all but the last id of a prompt, a step one id of every row.
        if all(len(row) == 1 for row in ids):
            steps.append(len(rows))
        return forward(rows, ids, starts, least)

    monkeypatch.setattr(engine._runner, "forward_all", count)
    engine.run([picture(vocabulary, size=(16, 16))])
    assert steps == [1, 1, 1, 1], "guidance 1 makes no second row, and the last code is not fed"
    steps.clear()
    engine.run([picture(vocabulary, size=(16, 16), scale=2.0), picture(vocabulary, size=(24, 16), scale=1.0)])
    assert steps == [3, 3, 3, 3, 1, 1], "a finished picture's rows leave the batch"


def test_every_id_is_an_event():
    llm, vocabulary = model("smollm")
    events = []
    requests = [picture(vocabulary, size=(16, 16), scale=2.0), text(tokens=3, top_k=1)]
    results = Engine(llm, vocabulary).run(requests, events.append)
    drawn = [event for event in events if event.index == 0]
    assert [event.token - vocabulary.code_offset for event in drawn] == results[0].codes.ravel().tolist()
    assert [(event.modality, event.done) for event in drawn] == [("image", False)] * 3 + [("image", True)]
    assert [event.token for event in events if event.index == 1] == results[1].ids


def test_a_request_beyond_the_context_is_refused_before_anything_runs():
    llm, vocabulary = model("gpt2")
    events = []
    engine = Engine(llm, vocabulary)
    with pytest.raises(UserError, match="context of 512"):
        engine.run([text(), picture(vocabulary, 500)], events.append)
    assert not events
    # Text is cut where the context ends, up to the last position.
    (result,) = engine.run([text(508, tokens=50)])
    assert len(result.ids) == 4
    assert_equals_reference(llm, vocabulary, [picture(vocabulary, 495)])


@dataclasses.dataclass
class Holder:
    """Of a model, its configuration."""

    config: Phi3Config


def test_of_two_sets_of_frequencies_one_is_used():
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=512, original_max_position_embeddings=64,
        rope_parameters=rope, pad_token_id=0,
    )  # fmt: skip
    assert context_length(Holder(config)) == 64
    config = Phi3Config(hidden_size=32, num_attention_heads=4, max_position_embeddings=512, pad_token_id=0)
    assert context_length(Holder(config)) == 512
