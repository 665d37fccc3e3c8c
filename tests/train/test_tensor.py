"""Layers that several processes compute together, against one process that computes them alone."""

from __future__ import annotations

import json

import pytest
import run_synthetic
import torch
from test_processes import finish, launch
from trainkit import assert_close, recipe, reports, tiny, trainer

from liquid_mm.errors import UserError
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
}
LAYOUTS = {
    "in parts": {"tensor_parallel": 2, "shard": 2},
    "copies": {"tensor_parallel": 2, "shard": 1, "activation_checkpointing": True},
}
ROUNDED = {"tensor_parallel": 2, "shard": 2, "precision": "bf16"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both LAYOUTS by four processes, and the run by one: the folders."""
    root = tmp_path_factory.mktemp("tensor")
    settings = {name: RUN | layout for name, layout in (LAYOUTS | {"bf16": ROUNDED}).items()}
    command = ["-c", "from torch.distributed.run import main; main()", "--nproc-per-node", "4", "--standalone"]
    script = [str(HERE / "run_synthetic.py"), str(root / "four"), json.dumps(settings), "4", FAMILY]
    finish(launch(*command, "--master-port", "0", *script))
    run_synthetic.run(root / "one", RUN, 1, FAMILY)
    return root / "four", root / "one"


@pytest.mark.parametrize("name", LAYOUTS)
def test_layers_computed_together_train_to_the_losses_of_one_process(runs, name):
    four, one = recipe(runs[0] / name, **RUN | LAYOUTS[name]), recipe(runs[1], **RUN)
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


def test_layers_computed_together_in_bfloat16(runs):
    four, one = reports(recipe(runs[0] / "bf16", **RUN | ROUNDED)), reports(recipe(runs[1], **RUN))
    assert [line["loss"] for line in four] == pytest.approx([line["loss"] for line in one], rel=0.02)


@pytest.mark.parametrize(("family", "message"), [("gpt2", "no plan"), ("phi3", "no plan"), ("qwen3", "1 key and")])
def test_what_cannot_be_cut_is_refused(family, message):
    with pytest.raises(UserError, match=message):
        cuts(tiny(family), 2)


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
