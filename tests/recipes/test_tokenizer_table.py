"""The comparison of image tokenizers on a few made-up pictures, with narrow networks."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import compare_tokenizers

from liquid_mm.image.vqgan import VQGAN


def test_every_variant_has_its_row_and_a_second_run_trains_nothing(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"train: [{tmp_path}]\nvalidation_share: 0.4\nresolution: 32\nstem: 4\nbatch_size: 2\n")
    monkeypatch.setattr(compare_tokenizers, "WIDTHS", {8: (16, 16), 16: (16, 16, 16)})
    monkeypatch.setattr(compare_tokenizers, "VARIANTS", [(8, 1000), (16, 8000)])
    compare_tokenizers.main(tmp_path / "runs", recipe, steps=1)
    table = (tmp_path / "runs" / "table.md").read_text()
    assert capsys.readouterr().out == table
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[:4] for row in cells] == [["8×8", "1000", "16", "159"], ["16×16", "8000", "4", "52"]]
    tokenizer = VQGAN.load(tmp_path / "runs" / "16x8000-1" / "tokenizer")
    assert (tokenizer.downsampling, tokenizer.num_codes) == (16, 8000)

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    compare_tokenizers.main(tmp_path / "runs", recipe, steps=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == written
