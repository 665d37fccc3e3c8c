"""A finished run as a checkpoint folder, and as the small difference to its base that can be shipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from liquid_mm.adapter import Base
from liquid_mm.checkpoint import Checkpoint, save_adapter, save_checkpoint
from liquid_mm.files import read_json
from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import TrainConfig


def export(learner: Learner, start: Checkpoint, config: TrainConfig) -> Path:
    """Write `RUN/final`, and `RUN/adapter` if `config.adapter_base` asks for it; return the former.

    Args:
        learner: the trained model; used up.
        start: the checkpoint training started from, for everything but the weights.
        config: the run's settings.
    """
    final, adapter = config.output / "final", config.output / "adapter"
    learner.finish()
    if config.adapter_base is not None and not adapter.exists():  # one that exists is whole
        dtype = "bfloat16" if config.precision == "bf16" else "float32"
        trained = dataclasses.replace(start, llm=learner.llm)
        save_adapter(trained, learner.peft, Base.of(config.adapter_base), adapter, dtype=dtype)
    save_checkpoint(dataclasses.replace(start, llm=learner.merge(_stored_dtype(config.model))), final)
    return final


def _stored_dtype(folder: Path) -> torch.dtype:
    """The type of the weights in a checkpoint folder; an adapter's result is kept in float32."""
    if not (folder / "config.json").is_file():
        return torch.float32
    config = read_json(folder / "config.json")
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype
