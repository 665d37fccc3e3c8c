"""Every setting of a training run, with the paper's values as defaults (section 4.1: lr 2e-5, cosine, warm-up 3 %).

    model: checkpoints/smol            # a Liquid checkpoint folder, as `liquid extend` writes
    output: runs/first                 # metrics, checkpoints and the finished model go here
    steps: 1000
    data: {seq_len: 512, batch_size: 8, sources: [{path: data/emoji}]}
    method: lora                       # full | lora | rows
    lr: 5.0e-4
    new_rows_lr: 2.0e-3

One optimiser step reads `data.batch_size × grad_accum` rows over all processes, so a recipe means the same on any
number of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from liquid_mm.config import Config
from liquid_mm.data.config import MixtureConfig


class ScheduleConfig(Config):
    """How the learning rate moves: warm-up to 1, then by `kind` down to `min_ratio`.

    Args:
        kind: `cosine`; `wsd`: stay at 1, then fall linearly over the last `decay` of the run; `constant`.
        warmup: share of the steps spent rising from 0.
        decay: share of the steps `wsd` spends falling.
        min_ratio: where the fall ends, as a share of the peak.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    decay: float = Field(0.2, ge=0, le=1)
    min_ratio: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} together exceed the whole run.")
        return self


class LoraSettings(Config):
    """Low-rank adapters on the layers named by `targets` (module-name endings), or on every linear layer."""

    rank: int = Field(32, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TrainConfig(Config):
    """One training run.

    Args:
        model: Liquid checkpoint folder to start from.
        output: run folder to write.
        data: what to read, and the shape of a batch.
        validation: what to measure on, or None.
        steps: optimiser steps.
        grad_accum: batches per optimiser step.
        method: train everything, LoRA plus the new rows, or the new rows alone.
        lr, new_rows_lr: peak learning rates; the second is for `<boi> <eoi> <unconditional>` and the codes, None: same.
        weight_decay: AdamW's; never on norms and biases.
        clip: largest gradient norm, or None.
        precision: `bf16` computes in bfloat16 while what is trained stays in float32.
        z_loss: weight of logsumexp², which keeps logits from drifting.
        validate_batches: most batches one validation reads; None reads them all.
        log_every, save_every, validate_every, sample_every: in steps; None switches the last three off.
        keep: how many of the latest checkpoints stay.
    """

    model: Path
    output: Path
    data: MixtureConfig
    validation: MixtureConfig | None = None
    steps: int = Field(ge=1)
    grad_accum: int = Field(1, ge=1)
    method: Literal["full", "lora", "rows"] = "full"
    lora: LoraSettings = LoraSettings()
    lr: float = Field(2e-5, gt=0)
    new_rows_lr: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float | None = Field(1.0, gt=0)
    z_loss: float = Field(0.0, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    activation_checkpointing: bool = False
    seed: int = 0
    log_every: int = Field(10, ge=1)
    save_every: int | None = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    validate_every: int | None = Field(500, ge=1)
    validate_batches: int | None = Field(None, ge=1)
    sample_every: int | None = Field(500, ge=1)
