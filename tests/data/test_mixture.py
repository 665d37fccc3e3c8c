from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from liquid_mm.data import groups
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.mixture import CAPTION, CODE, TEXT, MixtureConfig, build_mixture, build_validation, examples
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError
from liquid_mm.vocab.prompts import INSTRUCTIONS, Renderer

T, B = 96, 4


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "FIRST", 24)
    monkeypatch.setattr(groups, "LARGEST", 24)


def config(sets, *kinds: str, **options) -> MixtureConfig:
    sources = tuple({"path": sets[kind]} for kind in kinds or ("pairs", "text", "chat"))
    return MixtureConfig(**{"sources": sources, "seq_len": T, "batch_size": B, "seed": 3, **options})


def take(stream, count: int) -> list:
    return list(itertools.islice(stream, count))


def assert_equal(left: list, right: list) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], strict=True, err_msg=key)


def segments(batches) -> list[tuple]:
    """Each packed example as (ids, loss_mask, modality), hashable."""
    found = []
    for batch in batches:
        for row in range(len(batch["ids"])):
            for number in range(1, batch["segment_ids"][row].max() + 1):
                inside = batch["segment_ids"][row] == number
                found.append(key({name: batch[name][row][inside] for name in ("ids", "loss_mask", "modality")}))
    return found


def key(example) -> tuple:
    return tuple(tuple(example[name].tolist()) for name in ("ids", "loss_mask", "modality"))


def test_batches_have_one_shape_and_sound_bookkeeping(sets, renderer):
    kinds = Counter()
    for batch in take(build_mixture(config(sets), renderer), 12):
        dtypes = {name: array.dtype.name for name, array in batch.items()}
        assert dtypes == {
            "ids": "int64", "loss_mask": "bool", "positions": "int64", "segment_ids": "int64", "modality": "int8",
            "source": "int16", "record": "int64",
        }  # fmt: skip
        assert all(array.shape == (B, T) for array in batch.values())
        padding = batch["segment_ids"] == 0
        assert (batch["ids"][padding] == renderer.vocabulary.pad).all()
        assert not batch["loss_mask"][padding].any()
        np.testing.assert_array_equal(batch["modality"] > 0, batch["loss_mask"])
        for row in range(B):
            ids = batch["segment_ids"][row]
            lengths = [int((ids == number).sum()) for number in range(1, ids.max() + 1)]
            expected = np.repeat(np.arange(1, len(lengths) + 1), lengths)
            np.testing.assert_array_equal(ids, np.pad(expected, (0, T - len(expected))))
            positions = np.concatenate([np.arange(length) for length in lengths])
            np.testing.assert_array_equal(batch["positions"][row][: len(positions)], positions)
        kinds.update(batch["modality"].reshape(-1).tolist())
    assert {TEXT, CODE, CAPTION} <= kinds.keys()


def once(sets, *kinds, **options) -> MixtureConfig:
    """Every source read once, so that the stream has an end."""
    sources = tuple({"path": sets[kind], "epochs": 1} for kind in kinds or ("pairs", "text", "chat"))
    return config(sets, sources=sources, batch_size=1, **options)


def test_packing_holds_what_one_by_one_rendering_gives(sets, renderer):
    stream = build_mixture(once(sets), renderer)
    packed = []
    with pytest.raises(UserError, match="all 41 records that `epochs` allow have been read"):
        packed.extend(stream)
    found = segments(packed)
    assert Counter(found) == Counter(key(example) for example in examples(once(sets), renderer))
    assert len(found) > 41, "long documents give several examples"


@pytest.mark.parametrize("stop", [0, 1, 6, 13])
def test_resume_is_exact_across_epochs(sets, renderer, stop):
    settings = config(sets)
    straight = build_mixture(settings, renderer)
    take(straight, stop)
    state = json.loads(json.dumps(straight.get_state()))
    # 14 batches and more pass every set's end: the smallest has 7 records, and a third of all records are its.
    after = take(straight, 14)
    resumed = build_mixture(settings, renderer)
    take(resumed, 3)
    resumed.set_state(state)
    assert_equal(take(resumed, 14), after)
    assert len(json.dumps(state)) < 1000


@effort(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stop=st.integers(0, 12), before=st.sampled_from([1, 2, 4]), after=st.sampled_from([1, 2, 4]),
    workers=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)  # fmt: skip
def test_the_stream_depends_on_neither_ranks_nor_workers(sets, renderer, stop, before, after, workers):
    alone = take(build_mixture(config(sets, workers=0), renderer), stop + 3)
    started = [build_mixture(config(sets, workers=workers[0]), renderer, rank=r, world=before) for r in range(before)]
    shares = [take(stream, stop) for stream in started]
    (state,) = {json.dumps(stream.get_state()) for stream in started}
    resumed = [build_mixture(config(sets, workers=workers[1]), renderer, rank=r, world=after) for r in range(after)]
    for stream in resumed:
        stream.set_state(json.loads(state))
    more = [take(stream, 3) for stream in resumed]
    joined = [
        {name: np.concatenate([batch[name] for batch in parts]) for name in parts[0]}
        for parts in (*zip(*shares, strict=True), *zip(*more, strict=True))
    ]
    assert_equal(joined, alone)


def test_every_state_resumes(sets, renderer):
    settings = config(sets, batch_size=3)
    straight = build_mixture(settings, renderer)
    resumed = build_mixture(settings, renderer)
    for _ in range(8):
        resumed.set_state(straight.get_state())
        assert_equal(take(resumed, 1), take(straight, 1))


def test_ranks_hold_disjoint_rows_of_the_same_global_batch(sets, renderer):
    settings = config(sets)
    alone = take(build_mixture(settings, renderer), 6)
    ranks = [build_mixture(settings, renderer, rank=rank, world=2) for rank in range(2)]
    shares = [take(rank, 3) for rank in ranks]
    assert ranks[0].get_state() == ranks[1].get_state()
    resumed = [build_mixture(settings, renderer, rank=rank, world=4) for rank in range(4)]
    for rank in resumed:
        rank.set_state(ranks[0].get_state())
    shares += [take(rank, 3) for rank in resumed]
    joined = [
        {name: np.concatenate([batch[name] for batch in parts]) for name in parts[0]}
        for parts in (*zip(*shares[:2], strict=True), *zip(*shares[2:], strict=True))
    ]
    assert_equal(joined, alone)


def test_epochs_limit_a_source_and_are_reported(sets, renderer):
    sources = ({"path": sets["pairs"], "reversal": 0, "epochs": 1.5}, {"path": sets["text"]})
    limited = config(sets, sources=sources)
    stream = build_mixture(limited, renderer)
    pairs = [example for example in take(examples(limited, renderer), 400) if CODE in example["modality"]]
    assert len(pairs) == math.ceil(1.5 * 23)
    codes = Counter(tuple(i for i in example["ids"].tolist() if i >= 768) for example in pairs)
    assert Counter(codes.values()) == {2: 12, 1: 11}, "half of the pairs are met a second time"
    assert stream.epochs == {str(sets["pairs"]): 0, str(sets["text"]): 0}
    take(stream, 1)
    assert stream.epochs == {str(sets["pairs"]): 12 / 23, str(sets["text"]): 12 / 11}, "a group of 24 records"
    state = stream.get_state()
    take(stream, 60)
    assert stream.epochs[str(sets["pairs"])] == math.ceil(1.5 * 23) / 23
    stream.set_state(state)
    assert stream.epochs[str(sets["pairs"])] == 12 / 23


def test_a_stream_is_its_seed(sets, renderer):
    first, again, other = (take(build_mixture(config(sets, seed=seed), renderer), 4) for seed in (3, 3, 4))
    assert_equal(first, again)
    assert any((one["ids"] != two["ids"]).any() for one, two in zip(first, other, strict=True))


def test_an_epoch_visits_each_record_once_in_a_new_order_with_new_tasks(sets, renderer):
    stream = examples(config(sets, "pairs"), renderer)
    epochs = [[key(example) for example in take(stream, 23)] for _ in range(2)]
    codes = [[tuple(i for i in ids if i >= 768) for ids, _, _ in epoch] for epoch in epochs]
    assert len(set(codes[0])) == 23
    assert set(codes[0]) == set(codes[1])
    assert codes[0] != codes[1]
    assert set(epochs[0]) != set(epochs[1])


def test_weights_are_shares_of_records(sets, renderer):
    sources = ({"path": sets["pairs"], "weight": 3, "reversal": 0}, {"path": sets["chat"]})
    stream = examples(config(sets, sources=sources), renderer)
    pairs = sum(CODE in example["modality"] and TEXT not in example["modality"] for example in take(stream, 200))
    assert pairs == 150


def test_validation_is_one_whole_pass(sets, renderer):
    settings = config(sets, batch_size=5)
    validation = build_validation(settings, renderer)
    batches = list(validation)
    assert_equal(batches, list(validation))
    assert all(batch["ids"].shape == (5, T) for batch in batches)
    assert (batches[-1]["segment_ids"].max(axis=1) == 0).any(), "the last batch is filled up with empty rows"
    found = segments(batches)
    tasks = Counter(
        set(modality) - {0} == {CODE} for _, _, modality in found if CAPTION in modality or TEXT not in modality
    )
    assert tasks == {True: 23, False: 23}, "each pair both ways"
    assert sum({TEXT, CODE} <= set(modality) for _, _, modality in found) == 7, "each conversation"
    assert not any(renderer.vocabulary.unconditional in ids for ids, _, _ in found)
    texts = sum(sum(mask) for _, mask, modality in found if set(modality) <= {0, TEXT})
    stories = TokenizedSet(sets["text"])
    assert texts == sum(renderer.render(stories[n]).loss_mask.sum() for n in range(11)), "every token of each story"


def test_padding_is_the_models_own(sets, renderer, vocabulary):
    padded = Renderer(renderer._encoder.tokenizer, dataclasses.replace(vocabulary, pad=3))
    settings = config(sets, batch_size=5)
    for batch in [*build_validation(settings, padded), *take(build_mixture(settings, padded), 2)]:
        assert (batch["ids"][batch["segment_ids"] == 0] == 3).all()


def test_validation_takes_one_way_where_nothing_is_reversed(sets, renderer):
    sources = ({"path": sets["pairs"], "reversal": 0},)
    found = segments(build_validation(config(sets, sources=sources), renderer))
    assert len(found) == 23
    canonical = renderer._encoder.plain(INSTRUCTIONS[0], continuing=True)
    assert all(str(canonical)[1:-1] in str(list(ids)) for ids, _, _ in found)


def test_ranks_share_validation_evenly(sets, renderer):
    settings = config(sets)
    whole = list(build_validation(settings, renderer))
    ranks = [list(build_validation(settings, renderer, rank=rank, world=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(whole)
    joined = [{name: np.concatenate([one[name], two[name]]) for name in one} for one, two in zip(*ranks, strict=True)]
    assert_equal(joined, whole)


def test_mistakes_are_named_before_the_first_batch(sets, renderer, vocabulary, image_tokenizer):
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3"):
        build_mixture(config(sets), renderer, rank=2, world=3)
    with pytest.raises(UserError, match=r"32x32 pixels in .* are 4 codes each and do not fit seq_len 6"):
        build_mixture(config(sets, seq_len=6), renderer)
    with pytest.raises(UserError, match="vocabulary mismatch"):
        build_mixture(config(sets), renderer, fingerprint="0" * 16)
    build_mixture(config(sets), renderer, fingerprint=image_tokenizer.fingerprint)
    other = Renderer(renderer._encoder.tokenizer, dataclasses.replace(vocabulary, num_codes=512))
    with pytest.raises(UserError, match="vocabulary mismatch"):
        build_validation(config(sets), other)


def test_a_state_of_other_data_is_refused_and_of_another_batch_size_taken(sets, renderer, tmp_path):
    stream = build_mixture(config(sets), renderer)
    take(stream, 2)
    state = stream.get_state()
    for changed in ({"seed": 4}, {"seq_len": 128}, {"sources": ({"path": sets["pairs"]},)}):
        with pytest.raises(UserError, match="cannot be resumed with other data"):
            build_mixture(config(sets, **changed), renderer).set_state(state)
    # As many documents, with other words in them.
    edited = tmp_path / "text"
    count = TokenizedSet(sets["text"]).manifest.records
    tokenize([{"id": str(n), "text": f"another {n}"} for n in range(count)], None, edited)
    sources = tuple({"path": path} for path in (sets["pairs"], edited, sets["chat"]))
    with pytest.raises(UserError, match="cannot be resumed with other data"):
        build_mixture(config(sets, sources=sources), renderer).set_state(state)
    half = build_mixture(config(sets, batch_size=2), renderer)
    half.set_state(state)
    (whole,), halves = take(stream, 1), take(half, 2)
    np.testing.assert_array_equal(np.concatenate([part["ids"] for part in halves]), whole["ids"])


def test_what_does_not_fit_is_counted(sets, renderer):
    stream = build_mixture(config(sets, "pairs", "chat", seq_len=64), renderer)
    take(stream, 4)
    assert stream.skipped.keys() == {str(sets["chat"])}
    assert stream.skipped[str(sets["chat"])] > 3
