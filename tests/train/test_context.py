"""Rows that several processes compute together, a stretch each, against one process that computes them alone."""

from __future__ import annotations

import json

import pytest
import run_synthetic
import torch
from test_tensor import processes
from trainkit import VOCABULARY, assert_close, recipe, tiny, trainer

from liquid_mm.errors import UserError
from liquid_mm.train.adapt import Learner
from liquid_mm.train.context import check, repeats

BASE = {"steps": 4, "grad_accum": 2, "save_every": 2, "validate_every": 4, "sample_every": 4, "clip": 0.5}
BASE |= {"new_rows_lr": 3e-2, "loss_weights": {"code": 3}}
SHARED = {"context_parallel": 2}
NO_SAMPLES = {"sample_every": None}

TWO = {
    "repeated": {"family": "llama"},  # two heads, one of keys and values
    "windows": {"family": "gemma3_pairs"},
    "by masks": {"family": "gemma3_pairs", "by_mask": True},
    "repeated by masks": {"family": "gemma3", "by_mask": True},
    "lora": {"family": "qwen3_pairs", "method": "lora"},
    "twice": {"family": "qwen3_pairs", "activation_checkpointing": True},
    "bad steps": {"family": "llama", "lr": 1e-6, "new_rows_lr": 1e-6, "spike": 1.001, "on_bad_step": "skip"},
    "parts": {"family": "llama", "shard": 2},
}
FOUR = {
    "with copies": {"family": "llama", "shard": 2},
    "in parts": {"family": "gemma3_pairs", "shard": 4, "by_mask": True},
    "with layers": {"family": "qwen3_fours", "tensor_parallel": 2, **NO_SAMPLES},
    "with layers in parts": {"family": "qwen3_fours", "tensor_parallel": 2, "shard": 2, **NO_SAMPLES},
    "four stretches": {"family": "qwen3_fours", "context_parallel": 4},
}
ONE = ("family", "method", "lr", "new_rows_lr", "spike", "on_bad_step", "sample_every")
"""Settings that decide the result, which one process shares."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs by several processes, and of the same by one."""
    root = tmp_path_factory.mktemp("context")
    for number, cases in ((2, TWO), (4, FOUR)):
        processes(number, root / "many", {name: BASE | SHARED | case for name, case in cases.items()})
    for name, case in (TWO | FOUR).items():
        run_synthetic.run(root / "one" / name, BASE | {key: case[key] for key in ONE if key in case}, 1)
    return root


def pair(runs, name):
    case = (TWO | FOUR)[name]
    case = {key: value for key, value in case.items() if key not in ("family", "by_mask")}
    alone = {key: case[key] for key in ONE if key in case}
    return recipe(runs / "many" / name, **BASE | SHARED | case), recipe(runs / "one" / name, **BASE | alone)


@pytest.mark.parametrize("name", TWO | FOUR)
def test_rows_computed_together_train_to_the_losses_of_one_process(runs, name):
    many, one = pair(runs, name)
    assert_close(many, one, 1e-5)
    ours, theirs = (torch.load(config.output / "seen.pt") for config in (many, one))
    torch.testing.assert_close(ours["trained"], theirs["trained"], rtol=1e-3, atol=1e-4)
    if many.sample_every:  # pictures are drawn while training, by one process with the whole model
        torch.testing.assert_close(ours["logits"], theirs["logits"], rtol=1e-3, atol=1e-3)


def test_one_process_goes_on_with_what_several_have_begun(runs):
    many, _ = pair(runs, "with copies")
    again = trainer(many.model_copy(update={"context_parallel": 1}), family="llama")
    again.resume()
    assert again.state.step == 4
    trained = torch.load(many.output / "seen.pt")["trained"]
    torch.testing.assert_close({name: p.detach() for name, p in again.trained.items()}, trained)


def test_a_bad_step_is_described_as_by_one_process(runs):
    many, one = (config.output / "bad" for config in pair(runs, "bad steps"))
    files = sorted(path.name for path in one.iterdir())
    assert files
    assert sorted(path.name for path in many.iterdir()) == files
    for name in files:
        ours, theirs = (json.loads((folder / name).read_text())["documents"] for folder in (many, one))
        assert len(ours) == len(theirs) == 8  # rows of a step
        for a, b in zip(ours, theirs, strict=True):
            assert a["record"] == b["record"]
            assert a["costs"] == pytest.approx(b["costs"], rel=1e-3, abs=1e-4)


def test_key_heads_are_repeated_as_often_as_needed():
    assert [repeats(8, shared, 4) for shared in (8, 4, 2, 1)] == [1, 1, 2, 4]
    assert repeats(12, 6, 4) == 2
    with pytest.raises(UserError, match="context_parallel 4: 6 attention heads with 2"):
        repeats(6, 2, 4)


@pytest.mark.parametrize(
    ("family", "parts", "message"), [("gemma2", 2, "'eager' attention"), ("qwen3", 4, "2 attention")]
)
def test_models_whose_attention_cannot_be_shared_out_are_refused(tmp_path, family, parts, message):
    with pytest.raises(UserError, match=message):
        Learner(tiny(family), VOCABULARY, recipe(tmp_path, context_parallel=parts))


def test_heads_are_shared_out_after_layers(tmp_path):
    check(tiny("qwen3_fours"), 4)
    with pytest.raises(UserError, match="2 attention heads with 1"):
        check(tiny("qwen3_fours"), 4, tensor=2)


def test_layouts_that_do_not_fit_are_refused(tmp_path):
    config = recipe(tmp_path, context_parallel=2, tensor_parallel=2, sample_every=None)
    with pytest.raises(UserError, match="tensor_parallel 2 with context_parallel 2: 6 processes"):
        config.on(6)
    with pytest.raises(UserError, match=r"context_parallel 3: does not divide data\.seq_len 28"):
        recipe(tmp_path, context_parallel=3).on(3)
    with pytest.raises(ValueError, match="compile"):
        recipe(tmp_path, layouts={2: {"shard": 1, "rows": 1, "context_parallel": 2}}, compile=True)


def test_a_layout_says_how_many_share_a_row(tmp_path):
    layouts = {4: {"shard": "all", "rows": 2, "context_parallel": 2}}
    here = recipe(tmp_path, layouts=layouts).on(4)
    assert (here.context_parallel, here.shard, here.data.batch_size, here.grad_accum) == (2, 4, 4, 1)
