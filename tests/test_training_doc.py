"""docs/training.md: its recipes and every `liquid` command on it, in the order of the page, on tiny data.

Sizes and steps are the only changes, given as overrides behind the command; the base model from the Hub is a tiny one.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dockit import commands, liquid, metrics, save_tiny_base
from liquid_mm.train.guard import Guard, Trouble

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
BASE = "HuggingFaceTB/SmolLM2-135M"
SMALLER = {
    "train-tokenizer": ["steps=3", "batch_size=4", "resolution=32", "channels=[16,16]", "precision=fp32"],
    "train": [
        "steps=8", "data.seq_len=256", "data.batch_size=2", "precision=fp32", "trackers=[]", "sample_every=null",
        "on_bad_step=skip",
    ],
    "serve": ["--no-page"],
}  # fmt: skip

spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
assert spec is not None
assert spec.loader is not None
notebook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebook)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with pictures and captions, stories, conversations, the recipes of the page and of the repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    save_tiny_base(tmp_path / "base")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        picture = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(picture).rectangle((4, 4, 20, 8 + number), fill=(20 * number, 40, 200))
        picture.save(pictures / f"{number:02}.png")
        (pictures / f"{number:02}.txt").write_text(f"a block {8 + number} high")
    stories = [json.dumps({"text": f"once there were {number} ducks. " * 4}) for number in range(9)]
    Path("stories.jsonl").write_text("\n".join(stories) + "\n")
    chats = [
        {
            "messages": [
                {"role": "user", "content": "Draw a block."},
                {"role": "assistant", "content": [{"type": "image", "image": f"pictures/{number:02}.png"}]},
                {"role": "user", "content": "How high is it?"},
                {"role": "assistant", "content": f"{8 + number}."},
            ]
        }
        for number in range(12)
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    for kind, source in notebook.blocks(PAGE):
        if kind == "yaml" and source.startswith("# "):
            Path(notebook.yaml_file(source)).write_text(source, encoding="utf-8")
    return tmp_path


@pytest.fixture
def served(monkeypatch):
    """`liquid serve` hands over its application instead of listening for ever."""
    applications: list = []
    monkeypatch.setattr("liquid_mm.serve.app.run", lambda app, host, port: applications.append(app))
    return applications


@pytest.fixture
def one_bad_step(monkeypatch):
    """Step 7 of every run has a loss that is no number."""
    real = Guard.judge

    def judge(self, progress, loss, norm):
        return (
            Trouble("the loss is not finite", float("nan"), norm)
            if progress.step == 7
            else real(self, progress, loss, norm)
        )

    monkeypatch.setattr(Guard, "judge", judge)


@pytest.mark.usefixtures("place", "one_bad_step")
def test_from_a_folder_of_pictures_to_a_served_model(served):
    said = {}
    for kind, source in notebook.blocks(PAGE):
        if kind != "commands":
            continue
        for arguments in commands(source):
            smaller = [] if "--plan" in arguments else SMALLER.get(arguments[0], [])
            found = ["base" if argument == BASE else argument for argument in arguments]
            said[" ".join(arguments)] = liquid([*found, *smaller])
    assert len(said) >= 14
    for run in ("warmup", "second", "chat", "first"):
        kinds = [line["kind"] for line in metrics(Path("runs", run))]
        assert kinds.count("bad") == 1
        assert (Path("runs") / run / "final" / "liquid.json").is_file()
    assert len(list(Path("drawn").glob("*_seed*.png"))) == 1
    assert "data:image/png" in Path("pictures.html").read_text()
    report = "inspect runs/first/bad/step-00000007.json"
    assert "not finite" in said[report]
    assert "ids" not in said[report]
    assert " ids, " in said[f"{report} -c runs/first/final"]
    assert "does not fit" not in said["train recipes/paper/gemma-7b.yaml --plan"]
    (application,) = served
    assert {"/v1/chat/completions", "/v1/images/generations"} <= set(application.openapi()["paths"])


def test_what_the_page_names_exists():
    for name in (
        "recipes/slurm.sh",
        "recipes/emoji/chat.yaml",
        "recipes/emoji/tokenizer.yaml",
        "tests/train/kill_repeatedly.py",
    ):
        assert name in PAGE
        assert (ROOT / name).is_file()
