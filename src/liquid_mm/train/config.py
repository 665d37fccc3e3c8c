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
from typing import Annotated, Literal

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
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    decay: Annotated[float, Field(ge=0, le=1)] = 0.2
    min_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} together exceed the whole run.")
        return self


class LoraSettings(Config):
    """Low-rank adapters on the layers named by `targets` (module-name endings), or on every linear layer."""

    rank: Annotated[int, Field(ge=1)] = 32
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
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
        adapter_base: the base `model` was extended from, as `liquid extend` takes it; a LoRA or rows run then also
            writes the small form of its result, which stores only the difference to that base.
        keep: how many of the latest checkpoints stay.
    """

    model: Path
    output: Path
    data: MixtureConfig
    validation: MixtureConfig | None = None
    steps: Annotated[int, Field(ge=1)]
    grad_accum: Annotated[int, Field(ge=1)] = 1
    method: Literal["full", "lora", "rows"] = "full"
    lora: LoraSettings = LoraSettings()
    lr: Annotated[float, Field(gt=0)] = 2e-5
    new_rows_lr: Annotated[float | None, Field(gt=0)] = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: ScheduleConfig = ScheduleConfig()
    clip: Annotated[float | None, Field(gt=0)] = 1.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"
    activation_checkpointing: bool = False
    adapter_base: str | None = None
    seed: int = 0
    log_every: Annotated[int, Field(ge=1)] = 10
    save_every: Annotated[int | None, Field(ge=1)] = 500
    keep: Annotated[int, Field(ge=1)] = 2
    validate_every: Annotated[int | None, Field(ge=1)] = 500
    validate_batches: Annotated[int | None, Field(ge=1)] = None
    sample_every: Annotated[int | None, Field(ge=1)] = 500

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.adapter_base is not None and self.method == "full":
            raise ValueError("adapter_base is for method lora or rows: after full training all weights differ.")
        return self
