from __future__ import annotations

import errno
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from trainkit import Stopping, Synthetic, assert_close, assert_equal, recipe, reports, trainer, weights

from liquid_mm.errors import UserError
from liquid_mm.files import read_json
from liquid_mm.train import checkpoint
from liquid_mm.train.inputs import to_inputs
from liquid_mm.train.metrics import read_metrics
from liquid_mm.train.signals import Interrupted

DROPPING = {"rank": 2, "dropout": 0.2}


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


def test_a_weight_of_nought_is_as_if_nothing_of_that_kind_were_learnt(tmp_path):
    class WithoutCodes(Synthetic):
        def __next__(self):
            batch = super().__next__()
            return batch | {"loss_mask": batch["loss_mask"] & (batch["modality"] != 2)}

    without = recipe(tmp_path / "a", steps=3)
    weighted = recipe(tmp_path / "b", steps=3, loss_weights={"code": 0, "text": 2})
    untouched = recipe(tmp_path / "c", steps=3)
    trainer(without, WithoutCodes()).run()
    trainer(weighted).run()
    trainer(untouched).run()
    values = [
        [line[name] for line in reports(run) for name in ("text/loss", "grad_norm")]
        for run in (weighted, without, untouched)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert values[0] != pytest.approx(values[2], rel=1e-4)
    first = [reports(run)[0]["code/loss"] for run in (weighted, untouched)]
    assert first[0] == first[1]  # reported all the same, and without the weight


def test_weights_of_nought_alone_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to learn"):
        recipe(tmp_path, loss_weights={"code": 0, "text": 0, "caption": 0})


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
    assert_equal(parted, whole)


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
    with pytest.raises(UserError, match="loss is not finite in step 4"):
        run.run()
    assert [path.name for path in checkpoint.checkpoints(run.root)] == ["step-00000002", "step-00000003"]
    found = read_json(config.output / "bad" / "step-00000004.json")
    assert found["reason"] == "the loss is not finite"
    assert found["loss"] is None
    assert found["data"] == {"at": 3}


def test_a_bad_step_can_be_skipped(tmp_path):
    """The run is that of one which never had the step's update, and says which batch it left out."""
    config = recipe(tmp_path, steps=4, on_bad_step="skip")
    run = trainer(config, describe=lambda batch, costs: [{"loss": float(cost.sum())} for cost in costs])
    forward, before = run.model, {}

    def poisoned(*inputs):
        loss, stats = forward(*inputs)
        if run.state.step == 2:
            before.update({name: p.detach().clone() for name, p in run.trained.items()})
            loss = loss * float("inf")
        elif run.state.step == 3:
            assert all(torch.equal(p, before[name]) for name, p in run.trained.items())
        return loss, stats

    run.model = poisoned
    run.run()
    lines = read_metrics(config.output / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "bad"] == [3]
    assert ["loss" in line for line in lines if line["kind"] == "train"] == [True, True, False, True]
    found = read_json(config.output / "bad" / "step-00000003.json")
    assert found["reason"] == "the gradient is not finite"
    assert len(found["documents"]) == 4
    costs = [document["loss"] for document in found["documents"]]
    assert costs == sorted(costs, reverse=True), "the worst first"
    assert costs[-1] > 0
    assert all(torch.isfinite(value).all() for value in weights(config).values())


def test_skipping_ends_where_nothing_but_bad_steps_come(tmp_path):
    run = trainer(recipe(tmp_path, steps=40, on_bad_step="skip"))
    run.model = lambda *inputs: [value * float("nan") for value in run.learner(*inputs)[:1]] + [run.learner(*inputs)[1]]
    with pytest.raises(UserError, match="not finite in step 10"):
        run.run()


def finished(tmp_path):
    config = recipe(tmp_path, steps=2)
    run = trainer(config)
    run.run()
    (folder,) = checkpoint.checkpoints(run.root)
    return config, folder


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "progress.json"])
def test_a_checkpoint_that_changed_on_the_disk_is_refused(tmp_path, file):
    config, folder = finished(tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=r"step-00000002 cannot be read|not valid JSON"):
        trainer(config).resume()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    finished(tmp_path)
    with pytest.raises(UserError, match="step-00000002 is whole, but not one of this run"):
        trainer(recipe(tmp_path, method="lora", lora=DROPPING)).resume()


def test_random_states_of_devices_that_are_not_here_any_more_do_not_hinder(tmp_path, monkeypatch):
    """As when a run goes on with another number of visible GPUs."""
    config, _ = finished(tmp_path)
    more = [torch.get_rng_state(), torch.get_rng_state()]
    monkeypatch.setattr(checkpoint, "random_state", lambda: more)
    resumed = trainer(config)
    resumed.resume()
    assert resumed.state.step == 2


def test_a_full_disk_is_said_and_the_earlier_checkpoint_stays(tmp_path, monkeypatch):
    config = recipe(tmp_path, steps=4, save_every=2)
    run, written = trainer(config), os.fsync

    def full(descriptor):
        if (run.root / ".step-00000004.part").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        run.run()
    assert [path.name for path in run.root.iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    again = trainer(config)
    again.resume()
    again.run()
    assert again.state.step == 4


def test_a_checkpoint_that_cannot_fit_is_not_begun(tmp_path, monkeypatch):
    config = recipe(tmp_path, steps=2)
    nothing = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nothing)
    with pytest.raises(UserError, match=r"disk is full.*0\.00 GiB are free"):
        trainer(config).run()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The write of step 2 ends only when step 4 has been taken, and holds step 2's weights nevertheless."""
    config = recipe(tmp_path, steps=5, save_every=2)
    run, late, hashed = trainer(config), threading.Event(), checkpoint.file_sha256

    def slow(path):
        assert late.wait(60)
        return hashed(path)

    monkeypatch.setattr(checkpoint, "file_sha256", slow)
    plain = recipe(tmp_path / "plain", steps=5, save_every=2)
    expected = trainer(plain)

    class Watched(Synthetic):
        def __next__(self):
            if self.at == 3:
                assert not checkpoint.checkpoints(run.root)
                late.set()
            return super().__next__()

    run.batches = Watched()
    run.run()
    expected.run()
    for folder in ("step-00000004", "step-00000005"):
        for found in (run, expected):
            dcp_to_torch_save(found.root / folder, found.root / f"{folder}.pt")
        ours, theirs = torch.load(run.root / f"{folder}.pt"), torch.load(expected.root / f"{folder}.pt")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
