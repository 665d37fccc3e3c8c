"""A tiny random checkpoint in a folder, and data of every task's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evalkit import noise, questions, write_jsonl

from liquid_mm.checkpoint import save_checkpoint
from tiny_checkpoint import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_checkpoint(tiny_checkpoint("gemma"), folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data for all tasks, each in its public layout."""
    root = tmp_path_factory.mktemp("data")
    for number in range(4):
        for folder in ("tokenizer/sub", "questions"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            noise(number).save(root / folder / f"{number}.png")
    (root / "genai-bench").mkdir()
    prompts = {f"{i:05d}": {"id": f"{i:05d}", "prompt": f"a red apple {i}", "models": {}} for i in range(4)}
    (root / "genai-bench" / "genai_image.json").write_text(json.dumps(prompts))
    empty = (
        "scene",
        "spatial relation",
        "action relation",
        "part relation",
        "comparison",
        "differentiation",
        "universal",
    )
    skills: dict[str, list[int]] = {skill: [] for skill in empty}
    skills |= {"attribute": [0, 1, 2], "counting": [2], "negation": [3], "basic": [0, 1], "advanced": [2, 3]}
    (root / "genai-bench" / "genai_skills.json").write_text(json.dumps(skills))
    metadata = {f"pic{i}": {"prompt": f"a duck {i}", "category": ("art", "food")[i % 2]} for i in range(4)}
    for number, (key, item) in enumerate(metadata.items()):
        path = root / "mjhq-30k" / "mjhq30k_imgs" / item["category"] / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(10 + number).save(path)
    (root / "mjhq-30k" / "meta_data.json").write_text(json.dumps(metadata))
    lines = [{"tag": "counting", "include": [], "prompt": "two cats"}, {"tag": "colors", "prompt": "a red dog"}]
    write_jsonl(root / "geneval" / "evaluation_metadata.jsonl", lines)
    (root / "dpg-bench").mkdir()
    (root / "dpg-bench" / "stanford12.txt").write_text("a yellow duck\n")
    questions(root)
    return root
