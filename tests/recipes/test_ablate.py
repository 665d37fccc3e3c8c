"""The ablations' tables: differences are those of a seed's two runs, and what factors share is one run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import ablate

from liquid_mm.config import load_config
from liquid_mm.train.config import TrainConfig

RECIPE = Path(ablate.__file__).with_name("train.yaml")


def losses(code, **more):
    return {"train code": code} | more


def test_differences_are_taken_seed_by_seed():
    recipe = [losses(1.0, **{"validation text": 3.0}), losses(2.0), losses(3.0)]
    rate = [losses(1.5, **{"validation text": 2.75}), losses(2.5), losses(3.5)]
    table = ablate.tables({("rate", "0.1"): rate, ("method", "lora"): recipe}, recipe)
    before, after = table.split("Less the recipe's of the same seed:")
    # Three losses 1 apart: their standard error is 1/√3, Student's quantile of two degrees 4.303.
    assert "| rate | 0.1 | 2.500 ± 2.484 | – | – | – | 2.750 |" in before
    assert "| method | lora | 2.000 ± 2.484 | – | – | – | 3.000 |" in before
    assert "| rate | 0.1 | +0.500 ± 0.000 | – | – | – | -0.250 |" in after
    assert "lora" not in after
    assert "Less" not in ablate.tables({("rate", "0.1"): rate}, None)


@pytest.mark.parametrize(
    ("factor", "name", "folder"),
    [("method", "lora", "recipe"), ("init", "codebook", "recipe"), ("reversal", "30%", "recipe"),
     ("reversal", "0%", "reversal-0"), ("init", "mean-noise", "init-mean-noise"), ("text", "none", "text-none")],
)  # fmt: skip
def test_what_changes_nothing_is_the_recipe_itself(factor, name, folder):
    config = load_config(TrainConfig, RECIPE)
    assert ablate.folder_name(config, factor, name, ablate.FACTORS[factor][name]) == folder
