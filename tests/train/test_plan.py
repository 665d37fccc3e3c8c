from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trainkit import VOCABULARY, Synthetic, pack, recipe, tiny

from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.flops import Cost
from liquid_mm.train.inputs import to_inputs
from liquid_mm.train.plan import Shape, make_plan, refuse

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
RECIPES = sorted(PAPER.glob("*.yaml"))
PUBLISHED = {"qwen2.5-0.5b": 0.494, "llama-3.2-1b": 1.236, "gemma-2-2b": 2.614, "qwen2.5-7b": 7.616,
             "gemma-2-9b": 9.242, "qwen2.5-32b": 32.764, "gemma-7b": 8.538, "gemma-7b-instruct": 8.538}  # fmt: skip
"""Parameters of the language models, in billions, as their model cards count the stored tensors."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_papers_recipes(path):
    """Sizes are the published ones plus the codes' rows; each layout fits the GPUs its recipe names."""
    config = load_config(TrainConfig, path)
    shape = Shape.of(config)
    rows = shape.tables * 8192 * shape.hidden
    assert (shape.parameters - rows) / 1e9 == pytest.approx(PUBLISHED[path.stem], abs=1e-3)
    assert sorted(config.layouts) == [8, 64, 256]
    gpu = "H200" if "--gpu H200" in path.read_text() else "H100"
    plans = [make_plan(config, shape, gpus, gpu) for gpus in config.layouts]
    refuse(plans)
    assert {plan.config.rows_per_step for plan in plans} == {config.rows_per_step}
    assert plans[0].days(0.4) == pytest.approx(8 * plans[1].days(0.4))
    assert all(text in plans[1].text(shape, 0.4) for text in ("64 x", "memory per GPU", "40% MFU"))


def test_there_are_recipes_for_all_sizes():
    assert {path.stem for path in RECIPES} == PUBLISHED.keys()


def test_a_layout_that_cannot_fit_is_refused():
    config = load_config(TrainConfig, PAPER / "gemma-7b.yaml", ["layouts={8: {shard: 1, rows: 4}}"])
    plan = make_plan(config, Shape.of(config), 8, "H100")
    assert not plan.fits
    with pytest.raises(UserError, match=r"8 x H100 does not fit: use more GPUs"):
        refuse([plan])


def test_layers_computed_together_are_planned():
    def plan(layout):
        config = load_config(TrainConfig, PAPER / "gemma-7b.yaml", ["sample_every=null", f"layouts={{8: {layout}}}"])
        return make_plan(config, shape, 8, "H100")

    shape = Shape.of(load_config(TrainConfig, PAPER / "gemma-7b.yaml"))
    apart, together = plan("{shard: 4, rows: 1}"), plan("{shard: 4, tensor_parallel: 2, rows: 2}")
    assert apart.config.grad_accum == together.config.grad_accum
    layers, name = shape.layers * shape.layer, "parameters and optimiser"
    assert apart.memory[name] == 4 * (shape.outside + layers)
    assert together.memory[name] == 4 * (shape.outside + layers / 2)
    assert apart.memory["activations"] < together.memory["activations"] < 2 * apart.memory["activations"]
    assert "1 x 4 GPUs x 2 computing each layer, 2 rows on each" in together.text(shape, 0.4)
    with pytest.raises(UserError, match="tensor_parallel 3: 16 attention heads"):
        Shape.of(load_config(TrainConfig, PAPER / "gemma-7b.yaml", ["sample_every=null", "tensor_parallel=3"]))


def test_rows_computed_together_are_planned():
    def plan(layout):
        return make_plan(
            load_config(TrainConfig, PAPER / "gemma-7b.yaml", [f"layouts={{8: {layout}}}"]), shape, 8, "H100"
        )

    shape = Shape.of(load_config(TrainConfig, PAPER / "gemma-7b.yaml"))
    apart, together = plan("{shard: 8, rows: 1}"), plan("{shard: 8, context_parallel: 4, rows: 1}")
    assert together.config.grad_accum == 4 * apart.config.grad_accum
    assert together.memory["activations"] == apart.memory["activations"] / 4
    assert {**together.memory, "activations": 0} == {**apart.memory, "activations": 0}
    assert "1 x 8 GPUs, 1 rows on every 4" in together.text(shape, 0.4)
    with pytest.raises(UserError, match="context_parallel 3 does not divide the 16 attention heads"):
        Shape.of(load_config(TrainConfig, PAPER / "gemma-7b.yaml", ["context_parallel=3"]))


@pytest.mark.parametrize(
    ("override", "gpus", "gpu", "message"),
    [
        ("layouts={8: {shard: 8, rows: 3}}", 8, "H100", "does not divide"),
        ("layouts={8: {shard: 3, rows: 4}}", 8, "H100", "whole groups"),
        ("steps=1", 8, "H900", "did you mean"),
        ("data.batch_size=1000", 48, "H100", "cannot be shared by 48"),
    ],
)
def test_mistakes(override, gpus, gpu, message):
    config = load_config(TrainConfig, PAPER / "gemma-7b.yaml", [override])
    with pytest.raises(UserError, match=message):
        make_plan(config, Shape.of(config), gpus, gpu)


@pytest.mark.parametrize("method", ["full", "lora", "rows"])
def test_flops_are_those_torch_counts(tmp_path, method):
    """Torch counts every score of a row, also those the mask hides, where attention is written as products.

    Products added in place it does not count; LoRA with dropout has none.
    """
    model = tiny("qwen2")
    model.set_attn_implementation("eager")
    learner = Learner(model, VOCABULARY, recipe(tmp_path, method=method, lora={"rank": 3, "dropout": 0.1}))
    batch = pack([[(np.arange(10, 38), np.ones(28, bool), np.ones(28, np.int8))]], 28)
    x = to_inputs(batch, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        learner(x.ids, x.positions, x.where, x.targets)[0].backward()
    expected = Cost.of(learner).step(28, len(x.targets), 28 * 28)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_kept_activations_are_those_autograd_keeps(tmp_path, family):
    model = tiny(family)
    learner = Learner(model, VOCABULARY, recipe(tmp_path, precision="bf16")).bfloat16()
    parameters = {p.data_ptr() for p in learner.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.data_ptr() not in parameters:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(Synthetic())
    x = to_inputs(batch, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.llm.model(input_ids=x.ids, position_ids=x.positions, use_cache=False)
    sizes = {"hidden": 32, "attention": 32, "keys": 16, "inner": 48}
    shape = Shape(**dict.fromkeys(Shape.__dataclass_fields__, 0) | sizes)
    assert sum(kept.values()) == pytest.approx(2 * x.ids.numel() * shape.kept(), rel=0.3)
