"""Evaluating on a local Ray: what two actors predict is what one process predicts, and a killed run goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evalkit import Brightness, MeanColour
from PIL import Image

from liquid_mm.evaluate import cluster, drawing, mjhq, run, tokenizer
from liquid_mm.evaluate.settings import EvalSettings

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Ray warns of its own settings as it makes them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:a Fréchet distance over:UserWarning"),
]
SETTINGS = EvalSettings(features="mean", top_k=None, temperature=1e3, judge="brightness", max_new_tokens=3)
TASKS = ["tokenizer", "geneval", "pope"]


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    for module in (tokenizer, mjhq):
        monkeypatch.setattr(module, "load_features", lambda name, device: MeanColour())
    monkeypatch.setattr(drawing, "load_judge", lambda name, device: Brightness())


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def predictions(path):
    return {line["id"]: line for line in map(json.loads, path.read_text().splitlines())}


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_predicts_what_one_process_does_and_goes_on_after_a_kill(tiny_folder, data, tmp_path, monkeypatch):
    def evaluate(out, **options):
        return run.evaluate(
            str(tiny_folder), TASKS, tmp_path / out, SETTINGS, data_dir=data, device="cpu", dtype="float32",
            batch_size=2, **options,
        )  # fmt: skip

    here = evaluate("here")
    real, asked = run.append_predictions, []

    def killed(path, made):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(path)
        return real(path, made)

    with monkeypatch.context() as patch:
        patch.setattr(run, "append_predictions", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate("there", cluster=True, workers=2)
    before = [line for name in TASKS for line in found(tmp_path / "there" / name)]
    assert 2 <= len(before) < sum(len(found(tmp_path / "here" / name)) for name in TASKS)
    todo = []
    windows = cluster.windows
    monkeypatch.setattr(cluster, "windows", lambda examples, *rest: todo.extend(examples) or windows(examples, *rest))
    there = evaluate("there", cluster=True, workers=2)
    assert len(todo) + len(before) == sum(task["n"] for task in here["tasks"].values())
    assert {name: task["values"] for name, task in there["tasks"].items()} == {
        name: task["values"] for name, task in here["tasks"].items()
    }
    assert files(tmp_path / "here") == files(tmp_path / "there")
    for name in TASKS:
        one, other = (predictions(tmp_path / out / name / "predictions.jsonl") for out in ("here", "there"))
        assert one == other
    for path in files(tmp_path / "here"):
        if path.endswith(".png"):
            with Image.open(tmp_path / "here" / path) as a, Image.open(tmp_path / "there" / path) as b:
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def found(folder):
    path = folder / "predictions.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("count", "batch", "workers", "parts"), [(5, 2, 1, 3), (640, 2, 2, 32), (1, 8, 4, 1), (0, 8, 1, 0)]
)
def test_windows_are_whole_batches_that_hold_everything(count, batch, workers, parts):
    examples = list(range(count))
    cut = cluster.windows(examples, workers, batch)
    assert [example for window in cut for example in window] == examples
    assert len(cut) == parts
    assert all(len(window) % batch == 0 for window in cut[:-1])
