import pytest

from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.scaling.grid import Cell, GridConfig, cells, choose
from liquid_mm.scaling.plan import resolve
from liquid_mm.train.config import TrainConfig

GRID = """
recipe: {tmp}/train.yaml
output: {tmp}/study
image_tokenizer: {tmp}/images
text_tokenizer: {tmp}/texts
sizes:
  s: {{shape: {{hidden_size: 8}}, train: {{lr: 0.004}}}}
  l: {{shape: {{hidden_size: 16}}}}
  known: {{base: owner/model}}
mixes:
  text: {{sources: [{{path: a}}]}}
  both: {{length: 2, sources: [{{path: a}}, {{path: b, weight: 5, reversal: 0}}], train: {{data.seq_len: 32}}}}
cells:
  - {{sizes: [s, l], mixes: [text, both], seeds: [0, 1]}}
  - {{sizes: [s], mixes: [both], lengths: [0.5, 1]}}
"""

RECIPE = "model: none\noutput: none\nsteps: 100\ndata: {seq_len: 16, batch_size: 2, sources: [{path: x}]}\n"


@pytest.fixture
def read(tmp_path):
    def make(*changes):
        text = GRID.format(tmp=tmp_path)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "grid.yaml").write_text(text)
        (tmp_path / "train.yaml").write_text(RECIPE)
        return load_config(GridConfig, tmp_path / "grid.yaml")

    return make


def test_blocks_are_products_and_what_they_share_is_one_cell(read):
    found = cells(read())
    assert len(found) == len(set(found)) == 9
    assert found[0] == Cell("s", "text", 1.0, 0)
    assert Cell("s", "both", 0.5, 0) in found
    assert [cell.name for cell in found[:2]] == ["s_text_x1_s0", "s_text_x1_s1"]


def test_a_cell_is_the_recipe_with_its_own_data_length_seed_and_rate(read):
    grid = read()
    (_, overrides, config) = resolve(grid, [Cell("s", "both", 0.5, 3)], TrainConfig)[0]
    assert all("=" in item for item in overrides)
    assert (config.steps, config.seed, config.data.seed, config.lr) == (100, 3, 3, 0.004)
    assert config.model == grid.output / "models" / "s_s3"
    assert config.output == grid.output / "s_both_x0.5_s3"
    assert [(str(s.path), s.weight, s.reversal) for s in config.data.sources] == [("a", 1, 0.2), ("b", 5, 0)]
    assert (config.data.seq_len, config.data.batch_size) == (32, 2)


MISTAKES = {
    "unknown key": (("sizes:\n", "sises:\n"), "unknown key 'sises': did you mean 'sizes'"),
    "unknown size": (("sizes: [s, l]", "sizes: [s, x]"), "unknown size 'x'"),
    "unknown mix": (("mixes: [text, both]", "mixes: [txet]"), "unknown mix 'txet': did you mean 'text'"),
    "two starts": (("base: owner/model", "base: a, like: b"), "exactly one of base, like and shape"),
    "no start": (("base: owner/model", "train: {}"), "exactly one of base, like and shape"),
    "no tokenizer": (("text_tokenizer: ", "score: null  # "), "'s' is given by its shape, which needs text_tokenizer"),
    "length 0": (("length: 2", "length: 0"), "mixes.both.length"),
    "bad name": (("known:", "a/b:"), "sizes.a/b"),
    "no seeds": (("seeds: [0, 1]", "seeds: []"), "cells.0.seeds"),
    "lengths too close": (("lengths: [0.5, 1]", "lengths: [0.5, 1.0000001]"), "two cells .* folder 's_both_x1_s0'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(read, name):
    change, message = MISTAKES[name]
    with pytest.raises(UserError, match=message.replace("'", "['`]").replace("[0]", r"\[0\]")):
        read(change)


def test_two_cells_never_share_a_run_folder(read):
    changes = (("  known:", "  s_both:"), ("  text:", "  both_text:"), ("  both: {", "  text: {"))
    named = (
        ("[text, both]", "[text, both_text]"),
        ("sizes: [s, l]", "sizes: [s, s_both]"),
        ("mixes: [both]", "mixes: [text]"),
    )
    with pytest.raises(
        UserError, match=r"two cells would share the run folder 's_both_text_x1_s0' \(size s, mix both_text, .*rename"
    ):
        read(*changes, *named)


def test_a_mistake_in_a_recipe_is_found_before_anything_runs(read):
    grid = read(("weight: 5", "wieght: 5"))
    with pytest.raises(UserError, match="did you mean 'weight'"):
        resolve(grid, cells(grid), TrainConfig)
    grid = read(("lr: 0.004", "lrr: 0.004"))
    with pytest.raises(UserError, match="did you mean 'lr'"):
        resolve(grid, cells(grid), TrainConfig)


def test_cells_are_chosen_by_name(read):
    grid = read()
    assert choose(grid, []) == cells(grid)
    assert choose(grid, ["l_text_x1_s1"]) == [Cell("l", "text", 1.0, 1)]
    with pytest.raises(UserError, match="did you mean 'l_text_x1_s1'"):
        choose(grid, ["l_text_x1_s11"])
