from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image
from trainkit import VOCABULARY

from liquid_mm.errors import UserError
from liquid_mm.train.engine import open_trackers
from liquid_mm.train.loss import TokenStats
from liquid_mm.train.metrics import Meter, Recorder, read_metrics
from liquid_mm.train.report import write_report


def test_means_and_code_usage_by_hand():
    meter = Meter(torch.device("cpu"), VOCABULARY)  # codes are 64 … 95
    top = torch.tensor([10, 64, 64, 70, 11])
    targets = torch.tensor([10, 64, 65, 71, 70])
    modality = torch.tensor([1, 2, 2, 2, 2])
    meter.add(TokenStats(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), top, torch.full((5,), 7.0)), targets, modality)
    values = Meter.read(meter.sums, meter.codes)
    assert values["loss"] == 3
    assert values["accuracy"] == 0.4
    assert values["text/loss"] == 1
    assert values["code/loss"] == 3.5
    assert values["code/accuracy"] == 0.25
    assert values["code/logsumexp"] == 7
    assert values["code/used"] == 2 / 32  # 64 twice, 70 once; 11 is no code
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert values["code/perplexity"] == pytest.approx(math.exp(entropy))
    assert "caption/loss" not in values
    meter.reset()
    assert Meter.read(meter.sums, meter.codes) == {}
    meter.add(TokenStats(torch.ones(1), torch.tensor([3]), torch.ones(1)), torch.tensor([64]), torch.tensor([2]))
    values = Meter.read(meter.sums, meter.codes)
    assert values["code/used"] == 0
    assert "code/perplexity" not in values


class Fake:
    """Stands for a tracker whose package is not installed here."""

    name, requires_logging_directory = "trackio", False

    def __init__(self, run_name):
        self.calls = [run_name]

    def start(self):
        self.calls.append("start")

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


def test_reports_go_to_every_tracker_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setitem(sys.modules, "trackio", type(sys)("trackio"))
    sys.modules["trackio"].__spec__ = sys.__spec__
    run = tmp_path / "run"
    run.mkdir()
    board, fake = open_trackers(("tensorboard", "trackio"), run, 0)
    recorder = Recorder(run, 0, [board, fake])
    recorder.report(3, "train", {"loss": 1.5})
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 4), "red").save(tmp_path / "samples" / "pictures.png")
    (tmp_path / "samples" / "text.txt").write_text("once")
    recorder.samples(3, tmp_path / "samples")
    recorder.close()
    assert fake.calls == ["run", "start", (3, {"train/loss": 1.5}), "finish"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 1.5)]
    (picture,) = events.Images("samples/pictures")
    assert (picture.width, picture.height) == (8, 4)
    assert events.Tensors("samples/text/text_summary")[0].tensor_proto.string_val == [b"once"]


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
        open_trackers(("wandb",), tmp_path, 0)


def test_the_report_shows_curves_and_samples(tmp_path):
    lines = [
        {"step": 1, "kind": "train", "loss": 2.0, "text/loss": 2.5, "code/loss": 1.5},
        {"step": 2, "kind": "bad", "loss": None},
        {"step": 2, "kind": "train", "loss": 1.0, "text/loss": 1.25, "code/loss": 0.5},
        {"step": 2, "kind": "validation", "code/loss": 0.75},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "samples" / "step-00000002"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "pictures.png")
    (folder / "captions.txt").write_text("a <red> apple")
    page = write_report(tmp_path).read_text()
    assert page.count("<svg") == 1
    for label in ("train text/loss", "train code/loss", "validation code/loss"):
        assert f"<!-- {label} -->" in page  # matplotlib's note beside each text it draws
    assert "train caption/loss" not in page
    assert 'src="samples/step-00000002/pictures.png"' in page
    assert "a &lt;red&gt; apple" in page
    assert "Steps not taken: 2" in page
    assert page.count("<td>loss</td><td>1</td>") == 1
    assert read_metrics(tmp_path / "metrics.jsonl") == lines
