"""Layers that several processes compute together, against one process that computes them alone."""

from __future__ import annotations

import json

import pytest
import run_synthetic
import torch
import transformers
from test_processes import finish, launch
from trainkit import GROUPED, Stopping, assert_close, recipe, reports, tiny, trainer

from liquid_mm.errors import UserError
from liquid_mm.train.signals import Interrupted
from liquid_mm.train.tensor import cuts

HERE = run_synthetic.Path(__file__).parent
FAMILY = "qwen3_pairs"  # norms inside the heads, whose gradients are partial
RUN = {
    "steps": 4,
    "grad_accum": 2,
    "save_every": 2,
    "validate_every": 4,
    "sample_every": None,
    "new_rows_lr": 3e-2,
    "clip": 0.5,
    "loss_weights": {"code": 3},
}
FOUR = {
    "in parts": {"tensor_parallel": 2, "shard": 2},
    "copies": {"tensor_parallel": 2, "shard": 1, "activation_checkpointing": True},
    "begun by one": {"tensor_parallel": 2, "shard": 2, "log_every": 2},
    "rounded": {"tensor_parallel": 2, "shard": 2, "precision": "bf16"},
}
TWO = {"phi_pairs": {"tensor_parallel": 2}, "gemma3_pairs": {"tensor_parallel": 2}}


def processes(number, folder, settings):
    """Runs of `settings` by some processes."""
    command = ["-c", "from torch.distributed.run import main; main()", "--nproc-per-node", str(number), "--standalone"]
    script = [str(HERE / "run_synthetic.py"), str(folder), json.dumps(settings), str(number)]
    finish(launch(*command, "--master-port", "0", *script))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each run by several processes, and by one: the folders."""
    root = tmp_path_factory.mktemp("tensor")
    many, one = root / "many", root / "one"
    with pytest.raises(Interrupted):  # after three of four steps, when a report of two is half full
        trainer(recipe(many / "begun by one", **RUN | {"log_every": 2}), Stopping(5), FAMILY).run()
    processes(4, many, {name: RUN | layout | {"family": FAMILY} for name, layout in FOUR.items()})
    processes(2, many, {name: RUN | layout | {"family": name} for name, layout in TWO.items()})
    run_synthetic.run(one / FAMILY, RUN | {"family": FAMILY}, 1)
    run_synthetic.run(one / "in twos", RUN | {"family": FAMILY, "log_every": 2}, 1)
    for name in TWO:
        run_synthetic.run(one / name, RUN | {"family": name}, 1)
    return many, one


def pair(runs, name, settings, other):
    return recipe(runs[0] / name, **RUN | settings), recipe(runs[1] / other, **RUN)


@pytest.mark.parametrize("name", ["in parts", "copies"])
def test_layers_computed_together_train_to_the_losses_of_one_process(runs, name):
    four, one = pair(runs, name, FOUR[name], FAMILY)
    assert_close(four, one, 1e-5)
    ours, theirs = (torch.load(config.output / "seen.pt")["trained"] for config in (four, one))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    held = [json.loads((four.output / f"rank-{rank}.json").read_text()) for rank in range(4)]
    whole = json.loads((one.output / "rank-0.json").read_text())
    sizes = {name: 4 * p.numel() for name, p in tiny(FAMILY).named_parameters()}
    layers = sum(size for name, size in sizes.items() if "layers" in name)
    cut = sum(size for name, size in sizes.items() if "proj" in name)
    # After the validation that ends a run, embedding and head are still whole.
    part = {"in parts": whole - layers + (layers - cut) / 2 + cut / 4, "copies": whole - cut / 2}[name]
    assert held == [part] * 4
    # One process goes on with what four have begun.
    again = trainer(recipe(runs[0] / name, **RUN), family=FAMILY)
    again.resume()
    assert again.state.step == 4
    torch.testing.assert_close({name: p.detach() for name, p in again.trained.items()}, ours)


@pytest.mark.parametrize("name", TWO)
def test_two_processes_in_other_families(runs, name):
    two, one = pair(runs, name, TWO[name], name)
    assert_close(two, one, 1e-5)  # Phi here drops out units: the same on both of the two as in one process


def test_four_processes_go_on_with_what_one_has_begun(runs):
    four, one = pair(runs, "begun by one", FOUR["begun by one"], "in twos")
    assert_close(four, one, 1e-5)


def test_layers_computed_together_in_bfloat16(runs):
    four, one = pair(runs, "rounded", FOUR["rounded"], FAMILY)
    losses = [[line["loss"] for line in reports(config)] for config in (four, one)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def apertus():
    """Its activation has parameters, of which its plan says nothing."""
    shape = GROUPED | {"num_key_value_heads": 2}
    return transformers.AutoModelForCausalLM.from_config(transformers.ApertusConfig(**shape))


@pytest.mark.parametrize(
    ("family", "message"), [("gpt2", "no plan"), ("phi3", "no plan"), ("apertus", "no plan"), ("qwen3", "1 key and")]
)
def test_what_cannot_be_cut_is_refused(family, message):
    llm = apertus() if family == "apertus" else tiny(family)
    with pytest.raises(UserError, match=message):
        cuts(llm, 2)


@pytest.mark.parametrize("more", [{"method": "lora"}, {"compile": True}, {"sample_every": 10}])
def test_settings_that_do_not_go_with_it_are_refused(tmp_path, more):
    with pytest.raises(ValueError, match="tensor_parallel"):
        recipe(tmp_path, **{"tensor_parallel": 2, "sample_every": None} | more)


def test_processes_that_form_no_groups_are_refused(tmp_path):
    config = recipe(tmp_path, tensor_parallel=2, sample_every=None)
    with pytest.raises(UserError, match="tensor_parallel 2: 3 processes"):
        config.on(3)
    with pytest.raises(UserError, match=r"shard 4: 4 processes in groups of 2"):
        config.model_copy(update={"shard": 4}).on(4)
    assert config.model_copy(update={"shard": "all"}).on(4).shard == 2


def test_a_layout_computes_layers_as_the_recipe_does_unless_it_says_otherwise(tmp_path):
    layouts = {2: {"shard": 1, "rows": 4}, 4: {"shard": 1, "rows": 1, "tensor_parallel": 1}}
    config = recipe(tmp_path, tensor_parallel=2, sample_every=None, layouts=layouts)
    assert [config.on(world).tensor_parallel for world in layouts] == [2, 1]
