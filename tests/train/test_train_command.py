from __future__ import annotations

import pytest
from trainkit import recipe
from typer.testing import CliRunner

from liquid_mm.cli import app
from liquid_mm.config import save_config
from liquid_mm.errors import UserError
from liquid_mm.train import run
from liquid_mm.train.signals import Interrupted

TINY = {"base": {"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
                 "num_hidden_layers": 2, "num_attention_heads": 2}, "new_rows": 32}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A recipe of 12 rows a step, with layouts for two numbers of GPUs."""
    layouts = {2: {"shard": "all", "rows": 3}, 4: {"shard": 2, "rows": 3, "activation_checkpointing": True}}
    config = recipe(tmp_path, architecture=TINY, layouts=layouts, grad_accum=3, precision="bf16")
    save_config(config, tmp_path / "recipe.yaml")
    return str(tmp_path / "recipe.yaml")


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", *arguments])


def test_the_plan_of_every_layout(path):
    result = invoke(path, "--plan", "--gpu", "H200")
    assert result.exit_code == 0
    first, second = result.output.split("4 x H200")
    assert first.startswith("2 x H200\n")
    assert "1 x 2 GPUs, 3 rows on each, 2 times a step" in first
    assert "2 x 2 GPUs, 3 rows on each, 1 times a step, activations computed twice" in second
    assert "6 steps of 12 rows" in second


def test_a_plan_for_another_number_of_gpus(path):
    result = invoke(path, "--plan", "--gpus", "1")
    assert result.exit_code == 0
    assert "1 x 1 GPUs, 4 rows on each, 3 times a step" in result.output


def test_a_plan_that_cannot_fit_ends_in_an_error(path):
    wide = "architecture.base.hidden_size=400000"
    result = invoke(path, wide, "--plan", "--gpus", "1")
    assert isinstance(result.exception, UserError)
    assert "1 x H100: does not fit" in result.output


@pytest.mark.parametrize(("preempted", "code"), [(True, 0), (False, 130)])
def test_exit_codes_of_a_stopped_run(path, monkeypatch, preempted, code):
    def train(*_, **__):
        raise Interrupted("stopped after step 3", preempted=preempted)

    monkeypatch.setattr(run, "train", train)
    result = invoke(path)
    assert result.exit_code == code
    assert "stopped after step 3" in result.output
