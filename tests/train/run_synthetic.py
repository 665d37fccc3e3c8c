"""Run as a script by test_loop: training runs on synthetic batches, as a process of its own (or one of several).

    run_synthetic.py FOLDER '{"NAME": {settings}, …}' PROCESSES      each run goes to FOLDER/NAME, or goes on there

Afterwards FOLDER/NAME/rank-R.json says how many bytes of parameters process R held, FOLDER/NAME/seen.pt what the main
process saw of the whole model: its logits during the run, and what it trained at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from trainkit import VOCABULARY, Synthetic, recipe, tiny

from liquid_mm.train.adapt import Learner
from liquid_mm.train.engine import Engine
from liquid_mm.train.loop import Trainer
from liquid_mm.train.shards import held


def run(folder, settings, processes):
    settings = dict(settings)
    family = settings.pop("family", "llama_tied")
    config = recipe(folder, **settings).on(processes)
    engine = Engine(config.precision, config.shard, config.tensor_parallel, config.context_parallel)
    assert engine.world == processes
    torch.manual_seed(config.seed)
    batches, held_out = (Synthetic(rank=engine.data_rank, world=engine.data_world) for _ in range(2))
    learner = Learner(tiny(family), VOCABULARY, config)
    seen = {}

    def sample(step):
        seen["logits"] = learner.llm(torch.arange(12)[None]).logits

    def describe(batch, costs):
        return [
            {"set": "s", "record": "-".join(map(str, ids)), "loss": float(cost.sum()), "costs": cost.tolist()}
            for ids, cost in zip(batch["ids"], costs, strict=True)
        ]

    options = {"validation": [next(held_out)], "sample": sample, "describe": describe, "progress": False}
    trainer = Trainer(learner, batches, config, engine, **options)
    trainer.resume()
    trainer.run()
    seen["trained"] = engine.collect(trainer.trained)
    parts = [held(parameter.detach())[0] for parameter in learner.parameters()]
    size = sum(part.numel() * part.element_size() for part in parts)
    (config.output / f"rank-{engine.rank}.json").write_text(json.dumps(size))
    if engine.is_main:
        torch.save(seen, config.output / "seen.pt")
    return engine


if __name__ == "__main__":
    for name, settings in json.loads(sys.argv[2]).items():
        engine = run(Path(sys.argv[1]) / name, settings, int(sys.argv[3]))
    engine.close()
