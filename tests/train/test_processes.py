"""Training in processes of its own: one that is killed, and two that share a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_synthetic
import torch
from trainkit import Stopping, assert_close, assert_equal, recipe, reports, trainer

from liquid_mm.train import checkpoint
from liquid_mm.train.signals import Interrupted

HERE = Path(__file__).parent


def launch(*arguments, **environment):
    command = [sys.executable, *arguments]
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | environment
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    try:
        output, _ = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 0, output


def test_a_run_killed_at_any_moment_resumes_to_the_same_end(tmp_path):
    script = str(HERE / "run_synthetic.py")
    settings = {"steps": 40, "save_every": 2, "log_every": 3}
    whole = recipe(tmp_path / "whole", **settings)
    trainer(whole).run()
    process = launch(script, str(tmp_path), json.dumps({"killed": settings}), "1")
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
    assert_equal(killed, whole)


TWO = {"steps": 4, "grad_accum": 2, "save_every": 2, "validate_every": 4, "sample_every": 4, "new_rows_lr": 3e-2}
METHODS = {
    "copies": {},
    "shards": {"shard": "all"},
    "lora": {"shard": 2, "method": "lora", "lora": {"rank": 4}},
    "bf16": {"shard": "all", "precision": "bf16"},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Each run of METHODS by two processes, and by one: the folders."""
    root = tmp_path_factory.mktemp("pairs")
    one, two = root / "one", root / "two"
    with pytest.raises(Interrupted):  # begun by one process, ended by two
        trainer(recipe(two / "begun", **TWO), Stopping(3)).run()
    settings = {name: TWO | more for name, more in METHODS.items()} | {"begun": TWO | {"shard": "all"}}
    run = "from torch.distributed.run import main; main()"
    options = ["-c", run, "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    finish(launch(*options, str(HERE / "run_synthetic.py"), str(two), json.dumps(settings), "2"))
    for name, more in METHODS.items():
        run_synthetic.run(one / name, TWO | more | {"shard": 1}, 1)
    return one, two


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_to_the_losses_of_one(pairs, name):
    one, two = (recipe(folder / name, **TWO | METHODS[name]) for folder in pairs)
    if name == "bf16":  # rounding differs, and what is counted instead of averaged with it
        losses = [[line["loss"] for line in reports(config)] for config in (two, one)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
    else:
        assert_close(two, one, 1e-5)
    ours, theirs = (torch.load(config.output / "seen.pt") for config in (two, one))
    assert ours["trained"].keys() == theirs["trained"].keys()
    if name != "bf16":
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    whole = json.loads((one.output / "rank-0.json").read_text())
    for rank in range(2):
        share = json.loads((two.output / f"rank-{rank}.json").read_text()) / whole
        assert 0.45 < share < 0.55 if two.on(2).shard == 2 else share == 1
    # A run of two processes goes on with one.
    again = trainer(two.model_copy(update={"shard": 1}))
    again.resume()
    assert again.state.step == 4
    trained = {name: parameter.detach() for name, parameter in again.trained.items()}
    torch.testing.assert_close(trained, ours["trained"])


def test_a_run_of_one_process_goes_on_with_two(pairs):
    one, two = pairs
    whole, begun = recipe(one / "copies", **TWO), recipe(two / "begun", **TWO)
    assert_close(begun, whole, 1e-5)
