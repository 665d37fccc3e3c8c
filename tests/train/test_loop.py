from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainkit import VOCABULARY, Synthetic, recipe, tiny

from liquid_mm.errors import UserError
from liquid_mm.train import checkpoint
from liquid_mm.train.adapt import Learner
from liquid_mm.train.engine import Engine
from liquid_mm.train.loop import Interrupted, Trainer, to_inputs
from liquid_mm.train.metrics import read_metrics

HERE = Path(__file__).parent
DROPPING = {"rank": 2, "dropout": 0.2}
CLOCK = ("tokens_per_second",)


def trainer(config, batches=None, **options):
    engine = Engine(config.precision)
    torch.manual_seed(config.seed)
    learner = Learner(tiny(), VOCABULARY, config)
    return Trainer(learner, batches or Synthetic(), config, engine, progress=False, **options)


def reports(config):
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_metrics(config.output / "metrics.jsonl")]


def weights(config):
    return load_file(checkpoint.checkpoints(config.output / "checkpoints")[-1] / "trained.safetensors")


def assert_close(config, expected, tolerance):
    for ours, theirs in zip(reports(config), reports(expected), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=tolerance)


class Stopping(Synthetic):
    """Sends this process a signal while batch `after` is read."""

    def __init__(self, after, number=signal.SIGINT):
        super().__init__()
        self.after, self.number = after, number

    def __next__(self):
        if self.at == self.after:
            os.kill(os.getpid(), self.number)
        return super().__next__()


def test_metrics_and_falling_loss(tmp_path):
    config = recipe(tmp_path, steps=25, lr=2e-2, log_every=5, validate_every=25, validate_batches=2)
    held_out = [next(Synthetic()) for _ in range(3)]
    trainer(config, validation=held_out).run()
    lines = read_metrics(config.output / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [5, 10, 15, 20, 25]
    assert train[-1]["loss"] < 0.8 * train[0]["loss"]
    assert train[-1]["accuracy"] > train[0]["accuracy"]
    for name in ("text/loss", "code/loss", "code/accuracy", "text/logsumexp", "grad_norm", "lr", "tokens_per_second"):
        assert np.isfinite(train[0][name])
    assert "caption/loss" not in train[0]
    (validation,) = (line for line in lines if line["kind"] == "validation")
    assert 0 < validation["loss"] < train[0]["loss"]
    assert list((config.output / "tensorboard").glob("events*"))


def test_the_reported_loss_is_the_mean_over_the_targets_of_a_step(tmp_path):
    config = recipe(tmp_path, steps=1, grad_accum=3)
    run = trainer(config)
    batches = Synthetic()
    inputs = [to_inputs(next(batches), torch.device("cpu")) for _ in range(3)]
    with torch.no_grad():
        losses = [run.learner(x.ids, x.positions, x.where, x.targets)[1].loss for x in inputs]
    expected, modality = torch.cat(losses), torch.cat([x.modality for x in inputs])
    run.run()
    (line,) = reports(config)
    assert line["loss"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert line["text/loss"] == pytest.approx(expected[modality == 1].mean().item(), rel=1e-5)
    assert line["code/loss"] == pytest.approx(expected[modality == 2].mean().item(), rel=1e-5)


def test_gradient_accumulation_equals_one_large_batch(tmp_path):
    """Twelve rows at once, or four at a time, though the parts hold different numbers of targets."""

    class Joined(Synthetic):
        def __next__(self):
            parts = [Synthetic.__next__(self) for _ in range(3)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    parted, whole = recipe(tmp_path / "a", grad_accum=3, steps=3), recipe(tmp_path / "b", steps=3)
    trainer(parted).run()
    trainer(whole, Joined()).run()
    assert_close(parted, whole, 1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resume_is_exact_across_an_epoch_boundary(tmp_path, method):
    settings = {"method": method, "steps": 9, "log_every": 2, "lora": DROPPING, "new_rows_lr": 3e-2}
    whole = recipe(tmp_path / "whole", **settings)
    trainer(whole).run()
    parted = recipe(tmp_path / "parted", **settings)
    with pytest.raises(Interrupted, match=r"after step 3 of 9.*--resume"):
        trainer(parted, Stopping(2)).run()  # an epoch is 5 batches, and a report is open
    again = trainer(parted)
    again.resume()
    assert again.state.step == 3
    again.run()
    assert reports(parted) == reports(whole)
    ours, expected = weights(parted), weights(whole)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_second_signal_stops_at_once_and_handlers_are_put_back(tmp_path):
    class Impatient(Stopping):
        def __next__(self):
            os.kill(os.getpid(), self.number)
            return super().__next__()  # and again

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as info:
        trainer(recipe(tmp_path), Impatient(0, signal.SIGTERM)).run()
    assert not isinstance(info.value, Interrupted)
    assert signal.getsignal(signal.SIGTERM) is before


def test_old_checkpoints_and_rubble_are_removed(tmp_path):
    config = recipe(tmp_path, steps=5, save_every=1, keep=2)
    rubble = config.output / "checkpoints" / ".step-00000009.abc.part"
    rubble.mkdir(parents=True)
    trainer(config).run()
    assert [path.name for path in sorted(rubble.parent.iterdir())] == ["step-00000004", "step-00000005"]


def test_validation_and_samples_leave_training_alone(tmp_path):
    seen = []

    def sample(step):
        assert not torch.is_grad_enabled()
        seen.append((step, run.learner.training, torch.rand(1).item()))

    settings = {
        "steps": 4,
        "method": "lora",
        "lora": DROPPING,
        "sample_every": 2,
        "validate_every": 1,
    }
    plain, watched = recipe(tmp_path / "a", **settings), recipe(tmp_path / "b", **settings)
    trainer(plain).run()
    run = trainer(watched, sample=sample, validation=[next(Synthetic())])
    run.run()
    assert [item[:2] for item in seen] == [(2, False), (4, False)]
    assert [line for line in reports(watched) if line["kind"] == "train"] == reports(plain)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_earlier_checkpoints(tmp_path):
    config = recipe(tmp_path, steps=6, save_every=1, log_every=6)
    run = trainer(config)

    class Poisoned(Synthetic):
        def __next__(self):
            if self.at == 3:
                next(iter(run.trained.values())).data.fill_(float("nan"))
            return super().__next__()

    run.batches = Poisoned()
    with pytest.raises(UserError, match="not finite after step 4"):
        run.run()
    assert [path.name for path in checkpoint.checkpoints(run.root)] == ["step-00000002", "step-00000003"]


def test_a_broken_checkpoint_is_named(tmp_path):
    config = recipe(tmp_path, steps=2)
    run = trainer(config)
    run.run()
    (folder,) = checkpoint.checkpoints(run.root)
    (folder / "state.pt").write_bytes(b"")
    with pytest.raises(UserError, match="step-00000002"):
        trainer(config).resume()


def launch(*arguments, **environment):
    command = [sys.executable, *arguments]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)} | environment
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def test_a_run_killed_at_any_moment_resumes_to_the_same_end(tmp_path):
    script = str(HERE / "run_synthetic.py")
    settings = {"steps": 40, "save_every": 2, "log_every": 3}
    whole = recipe(tmp_path / "whole", **settings)
    trainer(whole).run()
    process = launch(script, str(tmp_path / "killed"), json.dumps(settings), "1")
    killed = recipe(tmp_path / "killed", **settings)
    while not checkpoint.checkpoints(killed.output / "checkpoints"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    at = checkpoint.checkpoints(killed.output / "checkpoints")[-1].name
    assert at < "step-00000040", "the run ended before it could be killed"
    again = trainer(killed)
    again.resume()
    again.run()
    assert reports(killed) == reports(whole)
    ours, expected = weights(killed), weights(whole)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_two_processes_train_to_the_losses_of_one(tmp_path):
    settings = {"steps": 4, "grad_accum": 2, "save_every": 2, "validate_every": 4}
    one = recipe(tmp_path / "one", **settings)
    trainer(one, validation=[next(Synthetic())]).run()
    run = "from torch.distributed.run import main; main()"
    arguments = [
        "-c",
        run,
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--standalone",
        str(HERE / "run_synthetic.py"),
    ]
    finish(launch(*arguments, str(tmp_path / "two"), json.dumps(settings), "2"))
    two = recipe(tmp_path / "two", **settings)
    assert_close(two, one, 1e-5)
    again = trainer(two)  # a run of two processes goes on with one
    again.resume()
    assert again.state.step == 4
