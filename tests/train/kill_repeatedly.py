"""Kill a run with SIGKILL at random moments, again and again; its end must be an undisturbed run's, bit by bit.

    python tests/train/kill_repeatedly.py --kills 20 --seed 0

Not part of the test suite, for it takes minutes. Runs are forked from a process that has imported everything, so that
what is killed is training and not imports.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import run_synthetic
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from liquid_mm.train.checkpoint import checkpoints
from liquid_mm.train.metrics import read_metrics

SETTINGS = {"steps": 400, "save_every": 3, "log_every": 7, "method": "lora", "lora": {"rank": 2, "dropout": 0.2}}


def fork(folder: Path) -> int:
    """Begin the run in `folder`, or go on with it, in a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        run_synthetic.run(folder, SETTINGS, 1)
        os._exit(0)
    return child


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    dcp_to_torch_save(checkpoints(folder / "run" / "checkpoints")[-1], folder / "end.pt")
    found: dict[str, torch.Tensor] = torch.load(folder / "end.pt")
    return found


def reports(folder: Path) -> list[dict[str, float]]:
    lines = read_metrics(folder / "run" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        since = time.perf_counter()
        os.waitpid(fork(whole), 0)
        lasts, moments = time.perf_counter() - since, []
        while len(moments) < options.kills:
            child = fork(killed)
            # On average the run gets through a 24th of its steps before it is killed.
            time.sleep(chance.uniform(0.0, lasts / 12))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                break  # it came to its end before
            found = checkpoints(killed / "run" / "checkpoints")
            moments.append(found[-1].name if found else "before the first checkpoint")
        os.waitpid(fork(killed), 0)
        ours, theirs = tensors(killed), tensors(whole)
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
        print(f"killed {len(moments)} times after: {', '.join(moments)}")
        print(f"{len(theirs)} tensors {'equal' if same else 'DIFFER'}, reports {reports(killed) == reports(whole)}")
        sys.exit(not same or reports(killed) != reports(whole) or len(moments) < options.kills)


if __name__ == "__main__":
    main()
