"""Starting, resuming, retrying and stopping cells, with a stand-in for `liquid train` that needs milliseconds."""

import _thread
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from scalingkit import write_model

from liquid_mm.config import load_config, save_config
from liquid_mm.errors import UserError
from liquid_mm.scaling import cluster, plan, run
from liquid_mm.scaling.grid import GridConfig, cells, choose
from liquid_mm.train.config import TrainConfig

STAND_IN = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
if arguments[0] == "train":
    settings = dict(item.split("=", 1) for item in arguments[2:-1])
    assert arguments[-1] == "--resume"
    folder = pathlib.Path(json.loads(settings["output"]))
    size = folder.name.split("_")[0]
    tries = folder / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    (folder / "checkpoints").mkdir(exist_ok=True)
    if size == "crash" and len(tries.read_text()) < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if size == "diverge":
        print("liquid: the loss is not finite after step 7", file=sys.stderr)
        sys.exit(2)
    if size in ("hang", "preempt") and len(tries.read_text()) < 2:
        def keep(number, frame):
            time.sleep(0.5)  # whoever does not wait for the checkpoint finds none
            (folder / "checkpoints" / "kept").touch()
            sys.exit(0)  # as `liquid train` does: to be preempted is no failure
        signal.signal(signal.SIGTERM, keep)
        if size == "preempt":
            os.kill(os.getpid(), signal.SIGTERM)
        (folder.parent / "started").write_text("now")  # a pipe: blocks until somebody reads
        while True:
            signal.pause()
    (folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
    (folder / "final").mkdir()
elif arguments[0] == "eval":
    (pathlib.Path(arguments[1]) / "score.json").write_text('{"fid": 3.5}')
else:
    print(*arguments)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`study(*sizes, **more)`: a grid of one cell per size, and its jobs."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    for module in (run, cluster):
        monkeypatch.setattr(module, "LIQUID", (sys.executable, "-S", str(script)))
    (tmp_path / "train.yaml").write_text(
        "model: none\noutput: none\nsteps: 10\ndata: {seq_len: 16, batch_size: 2, sources: [{path: x}]}\n"
    )

    def make(*sizes, only=(), **more):
        lines = {
            "recipe": tmp_path / "train.yaml",
            "output": tmp_path / "study",
            "image_tokenizer": "none",
            "sizes": json.dumps({size: {"base": "none"} for size in sizes}),
            "mixes": "{text: {sources: [{path: x}]}}",
            "cells": json.dumps([{"sizes": sizes, "mixes": ["text"]}]),
            **more,
        }
        path = tmp_path / "grid.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        grid = load_config(GridConfig, path)
        for cell in cells(grid):
            if not (grid.output / "models" / cell.model).exists():
                write_model(grid.output / "models" / cell.model, body=1000)
        return grid, plan.plan(grid, plan.resolve(grid, choose(grid, only), TrainConfig))

    return make


def notes(grid, name):
    return json.loads((grid.output / name / "cell.json").read_text())


def go(grid, jobs, parallel=1):
    seen = []
    outcomes = run.run_local(grid, jobs, parallel, seen.append)
    assert seen == outcomes
    return dict(outcomes)


def test_the_plan_counts_what_a_cell_costs(study):
    _, (job, _) = study("a", "b", speed="{flops: 1.0e6, step_seconds: 0.5, start_seconds: 7}")
    assert job.parameters == (1000, 256)
    assert job.tokens == 10 * 2 * 16
    assert job.flops == 6 * 1256 * 320
    assert job.seconds == pytest.approx(job.flops / 1e6 + 5 + 7)
    assert (job.state, job.measured) == ("new", False)


def test_times_come_from_runs_of_that_size_once_there_are_some(study):
    grid, _ = study("a")
    folder = grid.output / "a_text_x1_s0"
    folder.mkdir()
    lines = [{"kind": "train", "tokens_per_second": v} for v in (1, 64, 1000)] + [{"kind": "validation"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    _, (job,) = study("a", speed="{start_seconds: 7}")
    assert (job.seconds, job.measured) == (320 / 64 + 7, True)


def test_finished_cells_are_skipped_and_their_checkpoints_dropped(study):
    grid, jobs = study("a", "b")
    assert go(grid, jobs) == {"a_text_x1_s0": "", "b_text_x1_s0": ""}
    assert not (grid.output / "a_text_x1_s0" / "checkpoints").exists()
    assert go(grid, [dataclasses.replace(job, state="done") for job in jobs]) == {}


def test_a_killed_cell_is_resumed_and_a_diverged_one_reported(study, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    grid, jobs = study("crash", "diverge", "a", keep_checkpoints="true")
    outcomes = go(grid, jobs, parallel=2)
    message = "exit code 2: liquid: the loss is not finite after step 7"
    assert outcomes == {"crash_text_x1_s0": "", "diverge_text_x1_s0": message, "a_text_x1_s0": ""}
    assert notes(grid, "diverge_text_x1_s0")["failure"] == message
    assert notes(grid, "crash_text_x1_s0")["failure"] is None
    assert (grid.output / "a_text_x1_s0" / "checkpoints").exists()
    assert (grid.output / "a_text_x1_s0" / "threads").read_text() == "4"  # its share of the cores
    error = run.failures([run.Outcome(*item) for item in outcomes.items()])
    assert "1 of 3 cells did not finish" in str(error)
    assert run.failures([run.Outcome("a", "")]) is None


def test_no_retries_means_none(study):
    grid, jobs = study("crash", retries=0)
    assert "exit code -9" in go(grid, jobs)["crash_text_x1_s0"]


def test_a_training_preempted_by_others_is_interrupted_and_keeps_its_checkpoints(study):
    score = '{command: [eval, "{run}"], file: score.json, key: fid}'
    grid, jobs = study("preempt", score=score)
    assert go(grid, jobs) == {"preempt_text_x1_s0": "interrupted; the next run goes on from its checkpoint"}
    folder = grid.output / "preempt_text_x1_s0"
    assert (folder / "checkpoints" / "kept").exists()
    assert not (folder / "score.json").exists()
    _, jobs = study("preempt", score=score)
    assert [job.state for job in jobs] == ["resume"]
    assert go(grid, jobs) == {"preempt_text_x1_s0": ""}
    assert not (folder / "checkpoints").exists()


@contextlib.contextmanager
def stopped_when_started(grid):
    """SIGTERM for this process once a cell of size "hang" runs; ends in the KeyboardInterrupt that is made of it."""
    pipe = grid.output / "started"
    os.mkfifo(pipe)

    def stop_when_started():
        pipe.read_text()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    watcher = threading.Thread(target=stop_when_started, daemon=True)
    watcher.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        yield
    watcher.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_reaches_what_runs_and_the_next_run_goes_on(study):
    grid, jobs = study("hang", "a")
    with stopped_when_started(grid):
        run.run_local(grid, jobs, 1, print)
    assert (grid.output / "hang_text_x1_s0" / "checkpoints" / "kept").exists()
    assert not (grid.output / "a_text_x1_s0").exists()
    _, jobs = study("hang", "a")
    assert [job.state for job in jobs] == ["resume", "new"]
    assert go(grid, jobs) == {"hang_text_x1_s0": "", "a_text_x1_s0": ""}


def test_scores_are_measured_once_even_on_cells_that_were_finished(study):
    grid, jobs = study("a")
    go(grid, jobs)
    score = '{command: [eval, "{run}"], file: score.json, key: fid, higher_is_better: false}'
    grid = load_config(GridConfig, grid.output.parent / "grid.yaml", [f"score={score}"])
    assert go(grid, jobs) == {"a_text_x1_s0": ""}
    assert notes(grid, "a_text_x1_s0")["score"] == {"file": "score.json", "key": "fid", "higher_is_better": False}
    assert (grid.output / "a_text_x1_s0" / "tries").read_text() == "x"
    assert run.unfinished(grid, [dataclasses.replace(job, state="done") for job in jobs]) == []


def test_only_the_mixes_named_are_scored(study):
    grid, jobs = study("a")
    score = '{command: [eval, "{run}"], file: score.json, key: fid, mixes: [both]}'
    path = grid.output.parent / "grid.yaml"
    grid = load_config(GridConfig, path, [f"score={score}", "mixes.both={sources: [{path: b}]}"])
    go(grid, jobs)
    assert not (grid.output / "a_text_x1_s0" / "score.json").exists()
    assert notes(grid, "a_text_x1_s0")["score"] is None
    assert run.unfinished(grid, [dataclasses.replace(job, state="done") for job in jobs]) == []
    grid = load_config(GridConfig, path, [f"score={score.replace('both', 'text')}"])
    assert len(run.unfinished(grid, [dataclasses.replace(job, state="done") for job in jobs])) == 1
    go(grid, jobs)
    assert (grid.output / "a_text_x1_s0" / "score.json").exists()
    with pytest.raises(UserError, match=r"score.mixes name an unknown mix 'bath'.*'both'"):
        load_config(GridConfig, path, [f"score={score.replace('both', 'bath')}", "mixes.both={sources: [{path: b}]}"])


def test_a_study_has_one_recipe(study, tmp_path):
    grid, jobs = study("a")
    go(grid, jobs)
    config = load_config(TrainConfig, grid.recipe, jobs[0].overrides)
    save_config(config, grid.output / "a_text_x1_s0" / "config.yaml")
    assert study("a")[1][0].state == "done"
    grid.recipe.write_text(grid.recipe.read_text() + "log_every: 5\n")
    assert study("a")[1][0].state == "done"
    grid.recipe.write_text(grid.recipe.read_text() + "lr: 0.5\n")
    with pytest.raises(UserError, match=r"a_text_x1_s0 was finished with other settings \(lr\)"):
        study("a")


def test_slurm_gets_a_job_array_of_what_is_left(study, tmp_path):
    grid, (done, *jobs) = study("a", "b", "c", slurm="{partition: gpu, gres: 'gpu:1'}")
    done = dataclasses.replace(done, state="done")
    script = cluster.slurm_script(grid, tmp_path / "grid.yaml", [done, *jobs], parallel=4)
    text = script.read_text()
    assert "#SBATCH --array=0-1%4\n" in text
    assert "#SBATCH --partition=gpu\n#SBATCH --gres=gpu:1\n" in text
    assert "cells=(\n  b_text_x1_s0\n  c_text_x1_s0\n)" in text
    with pytest.raises(UserError, match="nothing to submit"):
        cluster.slurm_script(grid, tmp_path / "grid.yaml", [done])
    task = subprocess.run(["bash", str(script)], env={"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True)
    assert task.stdout == f"scaling run {tmp_path}/grid.yaml --cell c_text_x1_s0\n", task.stderr


def test_what_sbatch_says_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    sbatch = tmp_path / "sbatch"
    with pytest.raises(UserError, match="no sbatch on this machine"):
        cluster.submit(tmp_path / "slurm.sh")
    sbatch.touch(mode=0o755)
    sbatch.write_text('#!/bin/sh\necho "Submitted $1"\n')
    assert cluster.submit(tmp_path / "slurm.sh") == f"Submitted {tmp_path}/slurm.sh"
    sbatch.write_text("#!/bin/sh\necho 'no such partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="no such partition"):
        cluster.submit(tmp_path / "slurm.sh")


@pytest.fixture
def spread(study, tmp_path, monkeypatch, local_ray):
    """`study` with every path relative; Ray's workers are elsewhere, and find the stand-in only from here."""
    package = tmp_path / "liquid_mm"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    return lambda *sizes, **more: study(*sizes, recipe="train.yaml", output="study", **more)


with_ray = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own


@with_ray
def test_ray_tasks_work_in_the_drivers_folder_whatever_theirs_is(spread):
    grid, jobs = spread("crash", "diverge", "a")
    seen = []
    outcomes = cluster.run_ray(grid, jobs, seen.append)
    message = "exit code 2: liquid: the loss is not finite after step 7"
    assert dict(outcomes) == {"crash_text_x1_s0": "", "diverge_text_x1_s0": message, "a_text_x1_s0": ""}
    assert seen == outcomes
    assert (grid.output / "a_text_x1_s0" / "final").is_dir()
    assert cluster.run_ray(grid, [dataclasses.replace(job, state="done") for job in jobs], print) == []


@with_ray
def test_a_stop_waits_until_ray_tasks_have_kept_their_checkpoints(spread):
    # The last of them needs more processors than there are free, so that it still waits for its turn.
    grid, jobs = spread("hang", "a", ray="{num_cpus: 4}")
    with stopped_when_started(grid):
        cluster.run_ray(grid, jobs, print)
    assert (grid.output / "hang_text_x1_s0" / "checkpoints" / "kept").exists()
    assert not (grid.output / "a_text_x1_s0").exists()
    _, jobs = spread("hang", "a")
    assert [job.state for job in jobs] == ["resume", "new"]


def test_a_task_can_be_cancelled_where_ctrl_c_is_ignored(tmp_path, monkeypatch):
    # As in all that descends from a command in the background; Ray cancels a task by the same signal.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "run_cell", lambda *_: _thread.interrupt_main() or time.sleep(2))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster.run_there(None, None, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_machine_without_the_shared_files_is_named(tmp_path):
    outcome = cluster.run_there(None, types.SimpleNamespace(cell=types.SimpleNamespace(name="c")), tmp_path / "gone")
    assert outcome.cell == "c"
    assert f"has no folder {tmp_path / 'gone'}" in outcome.message
