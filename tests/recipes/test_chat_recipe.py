"""The recipe of instruction tuning: it is valid, and its own two commands run on a few made-up conversations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from dockit import commands, liquid, metrics
from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.config import load_config
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.train.config import TrainConfig
from tiny_checkpoint import tiny_checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

from chats import chats

ROOT = Path(__file__).parents[2]
RECIPE = Path("recipes/emoji/chat.yaml")
HEADER = "\n".join(line.lstrip("# ") for line in (ROOT / RECIPE).read_text().splitlines() if line.startswith("#"))
SMALLER = ["steps=5", "data.seq_len=256", "validation.seq_len=256", "precision=fp32", "trackers=[]", "log_every=1"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """What the recipe finds: a trained model, its image tokenizer, sets of pairs and texts, conversations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    model = tiny_checkpoint("smollm")
    save_checkpoint(model, tmp_path / "runs/emoji/final")
    model.image_tokenizer.save(tmp_path / "runs/emoji-tokenizer/tokenizer")
    emoji = tmp_path / ".cache/emoji"
    (emoji / "images").mkdir(parents=True)
    names = ["red apple", "blue ball", "green shoes", "yellow duck", "black cat"]
    lines, pairs = [], []
    for name in names:
        Image.new("RGB", (32, 32), name.split()[0]).save(emoji / "images" / f"{name}.png")
        lines += [json.dumps(chat) + "\n" for chat in chats(name, "3D", f"images/{name}.png")]
        pairs.append(json.dumps({"image": f"images/{name}.png", "text": f"a {name}"}) + "\n")
    (emoji / "chat_train.jsonl").write_text("".join(lines))
    (emoji / "pairs.jsonl").write_text("".join(pairs))
    (emoji / "text.jsonl").write_text("".join(json.dumps({"text": f"there are {n} boats."}) + "\n" for n in range(9)))
    tokens = emoji / "tokens"
    liquid(["tokenize", str(emoji / "pairs.jsonl"), "-t", "runs/emoji/final", "-o", str(tokens / "common")])
    for name in ("text", "text_validation"):
        liquid(["tokenize", str(emoji / "text.jsonl"), "-o", str(tokens / name)])
    return tmp_path


def test_the_recipe_is_valid():
    config = load_config(TrainConfig, ROOT / RECIPE)
    kinds = [source.path.name for source in config.data.sources]
    assert kinds == ["chat", "common", "text"]
    assert config.model == Path("runs/emoji/final")


@pytest.mark.usefixtures("place")
def test_its_commands_run():
    found = commands(HEADER)
    assert [arguments[0] for arguments in found] == ["tokenize", "train"]
    liquid(found[0])
    roles = {len(TokenizedSet(".cache/emoji/tokens/chat")[number].messages) for number in range(15)}
    assert roles == {2, 4}, "conversations of one turn and of two"
    liquid([*found[1], *SMALLER, "sample_every=null"])
    reports = metrics(Path("runs/emoji-chat"))
    training = [line for line in reports if line["kind"] == "train"]
    assert {"text/loss", "code/loss"} <= {name for line in training for name in line}
    assert training[-1]["step"] == 5
    assert [line["step"] for line in reports if line["kind"] == "validation"] == [5]
    assert (Path("runs/emoji-chat/final") / "liquid.json").is_file()
