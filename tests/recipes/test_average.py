"""Two runs' adapters are averaged number by number, and what cannot be is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liquid_mm.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

from average import average


def stage(folder, lora, rows, text_size=8, alpha=24):
    (folder / "adapter").mkdir(parents=True)
    (folder / "liquid.json").write_text(json.dumps({"vocabulary": {"text_size": text_size}, "taught": folder.name}))
    (folder / "adapter/adapter_config.json").write_text(json.dumps({"r": len(lora), "lora_alpha": alpha}))
    save_file({"lora_A": lora}, folder / "adapter/adapter_model.safetensors")
    save_file({"embedding": rows, "ids": torch.tensor([8, 9])}, folder / "rows.safetensors")
    return folder


@pytest.fixture
def stages(tmp_path):
    first = stage(tmp_path / "first", torch.tensor([[1.0, 2.0]]), torch.zeros(2, 3, dtype=torch.bfloat16))
    second = stage(tmp_path / "second", torch.tensor([[3.0, 6.0]]), torch.ones(2, 3, dtype=torch.bfloat16))
    return first, second


@pytest.mark.parametrize(("share", "lora", "row"), [(0.0, [1, 2], 0), (0.25, [1.5, 3], 0.25), (1.0, [3, 6], 1)])
def test_a_share_of_the_second_stage(stages, tmp_path, share, lora, row):
    average(*stages, tmp_path / "out", share)
    assert load_file(tmp_path / "out/adapter/adapter_model.safetensors")["lora_A"].tolist() == [lora]
    rows = load_file(tmp_path / "out/rows.safetensors")
    assert rows["embedding"].dtype == torch.bfloat16
    assert torch.equal(rows["embedding"], torch.full((2, 3), row, dtype=torch.bfloat16))
    assert rows["ids"].tolist() == [8, 9]
    assert json.loads((tmp_path / "out/liquid.json").read_text())["taught"] == "second"


def test_what_cannot_be_averaged_is_said_and_nothing_is_written(stages, tmp_path):
    first, second = stages
    wider = stage(tmp_path / "wider", torch.zeros(2, 2), torch.zeros(2, 3))
    louder = stage(tmp_path / "louder", torch.zeros(1, 2), torch.zeros(2, 3), alpha=48)
    other = stage(tmp_path / "other", torch.zeros(1, 2), torch.zeros(2, 3), text_size=9)
    for wrong, words in ((wider, "rank, scale"), (louder, "rank, scale"), (other, "different vocabularies")):
        with pytest.raises(UserError, match=words):
            average(first, wrong, tmp_path / "out", 0.5)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="already exists"):
        average(first, second, second, 0.5)
