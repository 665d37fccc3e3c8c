"""Run as a script by test_loop: one training run on synthetic batches, as a process of its own (or one of several)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from trainkit import VOCABULARY, Synthetic, recipe, tiny

from liquid_mm.train.adapt import Learner
from liquid_mm.train.engine import Engine
from liquid_mm.train.loop import Trainer


def main(folder, settings, processes):
    config = recipe(Path(folder), **settings)
    engine = Engine(config.precision)
    assert engine.world == processes
    torch.manual_seed(config.seed)
    batches, held_out = (Synthetic(rank=engine.rank, world=engine.world) for _ in range(2))
    learner = Learner(tiny(), VOCABULARY, config)
    Trainer(learner, batches, config, engine, validation=[next(held_out)], progress=False).run()
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
