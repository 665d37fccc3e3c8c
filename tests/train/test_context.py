"""Rows that several processes compute together, a stretch each, against one process that computes them alone."""

from __future__ import annotations

import json

import pytest
import run_synthetic
import torch
import transformers
from test_tensor import processes
from trainkit import GROUPED, VOCABULARY, Stopping, assert_close, recipe, reports, tiny, trainer

from liquid_mm.errors import UserError
from liquid_mm.train.adapt import Learner
from liquid_mm.train.signals import Interrupted

BASE = {"steps": 4, "grad_accum": 2, "save_every": 2, "validate_every": 4, "sample_every": 4, "clip": 0.5}
BASE |= {"new_rows_lr": 3e-2, "loss_weights": {"code": 3}}
SHARED = {"context_parallel": 2}
NO_SAMPLES = {"sample_every": None}

TWO = {
    "repeated": {"family": "llama"},  # two heads, one of keys and values
    "windows": {"family": "gemma3_pairs"},
    "repeated with windows": {"family": "gemma3"},
    "lora": {"family": "qwen3_pairs", "method": "lora"},
    "rows": {"family": "qwen3_pairs", "method": "rows"},
    "twice": {"family": "qwen3_pairs", "activation_checkpointing": True},
    "bad steps": {"family": "llama", "lr": 1e-6, "new_rows_lr": 1e-6, "spike": 1.001, "on_bad_step": "skip"},
    "parts": {"family": "llama", "shard": 2},
    "rounded": {"family": "qwen3_pairs", "precision": "bf16"},
}
FOUR = {
    "with copies": {"family": "llama", "shard": 2},
    "in parts": {"family": "gemma3_pairs", "shard": 4},
    "with layers": {"family": "qwen3_fours", "tensor_parallel": 2, **NO_SAMPLES},
    "with layers in parts": {"family": "qwen3_fours", "tensor_parallel": 2, "shard": 2, **NO_SAMPLES},
    "four stretches": {"family": "qwen3_fours", "context_parallel": 4},
    "begun by one": {"family": "llama", "shard": 2, "log_every": 2},
}
ONE = ("family", "method", "lr", "new_rows_lr", "spike", "on_bad_step", "sample_every", "precision", "log_every")
"""Settings that decide the result, which one process shares."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs by several processes, and of the same by one."""
    root = tmp_path_factory.mktemp("context")
    begun = {"log_every": 2} | BASE
    with pytest.raises(Interrupted):  # after three of four steps, when a report of two is half full
        trainer(recipe(root / "many" / "begun by one", **begun), Stopping(5), "llama", sample=lambda step: None).run()
    for number, cases in ((2, TWO), (4, FOUR)):
        processes(number, root / "many", {name: BASE | SHARED | case for name, case in cases.items()})
    for name, case in (TWO | FOUR).items():
        run_synthetic.run(root / "one" / name, BASE | {key: case[key] for key in ONE if key in case}, 1)
    return root


def pair(runs, name):
    case = (TWO | FOUR)[name]
    case = {key: value for key, value in case.items() if key != "family"}
    alone = {key: case[key] for key in ONE if key in case}
    return recipe(runs / "many" / name, **BASE | SHARED | case), recipe(runs / "one" / name, **BASE | alone)


@pytest.mark.parametrize("name", TWO | FOUR)
def test_rows_computed_together_train_to_the_losses_of_one_process(runs, name):
    many, one = pair(runs, name)
    if many.precision == "bf16":
        losses = [[line["loss"] for line in reports(config)] for config in (many, one)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        return
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


def small(config, **settings):
    """A model of a family that no other test has."""
    torch.manual_seed(0)
    shape = GROUPED | {"num_key_value_heads": 2} | settings
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**shape)).eval()


SHORT = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
MIXED = {
    "frequencies by length": lambda: small("Phi3Config", original_max_position_embeddings=8, rope_scaling=SHORT),
    "frequencies by positions so far": lambda: small(
        "LlamaConfig", max_position_embeddings=8, rope_scaling={"rope_type": "dynamic", "factor": 2.0}
    ),
    "windows by mask alone": lambda: small(
        "Qwen2MoeConfig", use_sliding_window=True, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "a convolution beside": lambda: small("FalconH1Config", mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16),
    "no attention in places": lambda: small("Lfm2Config", layer_types=["conv", "full_attention"]),
}


@pytest.mark.parametrize("name", MIXED)
def test_models_whose_rows_cannot_be_cut_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="let tokens meet elsewhere"):
        Learner(MIXED[name](), VOCABULARY, recipe(tmp_path, context_parallel=2))


def test_layers_that_are_not_told_their_window_keep_their_mask(tmp_path):
    learner = Learner(MIXED["windows by mask alone"](), VOCABULARY, recipe(tmp_path))
    assert learner.llm.config._attn_implementation == "sdpa"


def test_rows_longer_than_a_models_positions_are_refused(tmp_path):
    config = recipe(tmp_path)
    longer = config.model_copy(update={"data": config.data.model_copy(update={"seq_len": 200})})
    with pytest.raises(UserError, match="seq_len 200"):
        Learner(tiny("gpt2"), VOCABULARY, longer)


@pytest.mark.parametrize(
    ("family", "layout", "message"),
    [
        ("gemma2", {"context_parallel": 2}, "'eager' attention only"),
        ("qwen3", {"context_parallel": 4}, "context_parallel 4 does not divide the 2 attention heads"),
        ("qwen3", {"context_parallel": 2, "tensor_parallel": 2, **NO_SAMPLES}, "2 x tensor_parallel 2 does not divide"),
    ],
)
def test_heads_that_cannot_be_shared_out_are_refused(tmp_path, family, layout, message):
    with pytest.raises(UserError, match=message):
        Learner(tiny(family), VOCABULARY, recipe(tmp_path, **layout))


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
