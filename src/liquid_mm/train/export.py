"""A finished run as a checkpoint folder, and as the small difference to its base that can be shipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from liquid_mm.adapter import Base
from liquid_mm.checkpoint import Checkpoint, save_adapter, save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.files import read_json
from liquid_mm.train.adapt import Learner, new_row_ids
from liquid_mm.train.config import TrainConfig
from liquid_mm.vocab.base import load_base


def export(learner: Learner, start: Checkpoint, config: TrainConfig) -> Path:
    """Write `RUN/final`, and `RUN/adapter` if `config.adapter_base` asks for it; return the former.

    Args:
        learner: the trained model; used up.
        start: the checkpoint training started from, for everything but the weights.
        config: the run's settings.
    """
    final, adapter = config.output / "final", config.output / "adapter"
    learner.finish()
    start = dataclasses.replace(
        start, guidance_scale=config.guidance_scale or start.guidance_scale, taught=config.taught or start.taught
    )
    if config.adapter_base is not None and not adapter.exists():  # one that exists is whole
        dtype = config.adapter_dtype or ("bfloat16" if config.precision == "bf16" else "float32")
        trained = dataclasses.replace(start, llm=learner.llm)
        save_adapter(trained, learner.peft, Base.of(config.adapter_base), adapter, dtype=dtype)
    save_checkpoint(dataclasses.replace(start, llm=learner.merge(_stored_dtype(config.model))), final)
    return final


def check_adapter_base(start: Checkpoint, model: Path, source: str) -> None:
    """Make sure that what an adapter leaves out, the frozen weights, is in the base at `source`.

    Args:
        start: the checkpoint at `model`.
        model: its folder, for the type its weights are stored in.
        source: the base, as `load_base` takes it.

    Raises:
        UserError: `model` has other weights, such as those of an earlier training.
    """
    stored = _stored_dtype(model)
    base, _ = load_base(source, torch.float32)
    theirs = dict(base.named_parameters())
    new = torch.tensor(new_row_ids(start.vocabulary))
    tables = {id(start.llm.get_input_embeddings().weight), id(start.llm.get_output_embeddings().weight)}
    for name, parameter in start.llm.named_parameters():
        if name in theirs:
            ours, other = parameter.detach(), theirs[name].detach().to(stored).to(parameter.dtype)
            if id(parameter) in tables:  # what is in both, without the rows that are trained
                old = torch.ones(min(len(ours), len(other)), dtype=torch.bool)
                old[new[new < len(old)]] = False
                ours, other = ours[: len(old)][old], other[: len(old)][old]
            if torch.equal(ours, other):
                continue
        raise UserError(
            f"{model} is not {source} with new rows: they differ in {name}. An adapter would lack what it learnt "
            f"before: extend {source} anew, go on with that run's own adapter by start_from, or leave adapter_base out."
        )


def _stored_dtype(folder: Path) -> torch.dtype:
    """The type of the weights in a checkpoint folder; an adapter's result is kept in float32."""
    if not (folder / "config.json").is_file():
        return torch.float32
    config = read_json(folder / "config.json")
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype
