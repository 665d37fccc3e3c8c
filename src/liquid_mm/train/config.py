"""Every setting of a training run, with the paper's values as defaults (section 4.1: lr 2e-5, cosine, warm-up 3 %).

    model: checkpoints/smol            # a Liquid checkpoint folder, as `liquid extend` writes
    output: runs/first                 # metrics, checkpoints and the finished model go here
    steps: 1000
    data: {seq_len: 512, batch_size: 8, sources: [{path: data/emoji}]}
    method: lora                       # full | lora | rows
    lr: 5.0e-4
    new_rows_lr: 2.0e-3

One optimiser step reads `data.batch_size × grad_accum` rows over all processes, so a recipe means the same on any
number of them. How these rows and the model's parameters are shared out may depend on how many there are:

    layouts:
      8:  {shard: 8, rows: 4, activation_checkpointing: true}
      64: {shard: 8, rows: 16}       # 8 copies of the model, each spread over 8 GPUs
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from liquid_mm.config import Config
from liquid_mm.data.config import MixtureConfig
from liquid_mm.errors import UserError
from liquid_mm.record import Taught

Shard = Annotated[int, Field(ge=1)] | Literal["all"]


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


class LayoutConfig(Config):
    """How a run is spread over a certain number of processes.

    Args:
        shard: processes that share one copy of the parameters; see `TrainConfig`.
        tensor_parallel, context_parallel: processes that compute each layer, and each row, together; None: as the
            recipe says.
        rows: rows a process (or those that compute them together) computes at once; batch size and gradient
            accumulation follow.
        activation_checkpointing: None: as the recipe says.
    """

    shard: Shard
    tensor_parallel: Annotated[int, Field(ge=1)] | None = None
    context_parallel: Annotated[int, Field(ge=1)] | None = None
    rows: Annotated[int, Field(ge=1)]
    activation_checkpointing: bool | None = None


class LossWeights(Config):
    """How much one target of each modality counts in the loss; reported losses are without them.

    A caption has a tenth of the targets of its picture: where both are learnt at once, the picture's decide the step.
    """

    text: Annotated[float, Field(ge=0)] = 1.0
    code: Annotated[float, Field(ge=0)] = 1.0
    caption: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> LossWeights:
        if not (self.text or self.code or self.caption):
            raise ValueError("with all weights 0 there is nothing to learn.")
        return self


class ArchitectureConfig(Config):
    """The shape of the model, for `liquid train --plan` before there is a checkpoint to look at.

    Args:
        base: the language model's `config.json`, its `model_type` and sizes at least.
        new_rows: image codes and whatever else is added to its vocabulary.
    """

    base: dict[str, Any]
    new_rows: Annotated[int, Field(ge=0)] = 8192


class TrainConfig(Config):
    """One training run.

    Args:
        model: Liquid checkpoint folder to start from.
        output: run folder to write.
        start_from: another run's folder, of the same `model`, method and LoRA shape: begin with the weights of its
            latest checkpoint, optimiser and data afresh. A second stage whose result is still one adapter to one base.
            Or an adapter's folder, "demo" for the model that ships.
        data: what to read, and the shape of a batch.
        validation: what to measure on, or None.
        steps: optimiser steps.
        grad_accum: batches per optimiser step.
        method: train everything, LoRA plus the new rows, or the new rows alone.
        lr, new_rows_lr: peak learning rates; the second is for `<boi> <eoi> <unconditional>` and the codes, None: same.
        weight_decay: AdamW's; never on norms and biases.
        clip: largest gradient norm, or None.
        precision: `bf16` computes in bfloat16 while what is trained stays in float32.
        loss_weights: how much a target counts, by modality (`text`, `code`, `caption`).
        z_loss: weight of logsumexp², which keeps logits from drifting.
        activation_checkpointing: compute activations twice instead of keeping them.
        compile: run each layer through `torch.compile`.
        shard: processes that share one copy of parameters and optimiser state (FSDP2), or `all`; groups of that size
            are copies of each other (HSDP).
        tensor_parallel: processes that compute each layer together, on the same rows; `shard` then counts groups of
            them. For models too large for one GPU's share; `method: full` only.
        context_parallel: processes that compute each row together, a stretch of its tokens each; for rows too long for
            one GPU.
        layouts: by number of processes, what to use instead of `shard`, `tensor_parallel`, `context_parallel`,
            `data.batch_size` and `grad_accum`; the product of the last two, the rows of a step, stays as it is.
        architecture: for `--plan` where `model` does not exist yet.
        peak_flops: dense bfloat16 FLOP/s of one device, for MFU; None: looked up, where the device is known.
        on_bad_step: what to do where the loss or gradient is not finite, or the loss jumps: `stop`, or `skip` its
            update and go on. Either way the batch is described in `RUN/bad/`.
        spike: a loss of over this many times its running mean counts as a jump; None: none does.
        trackers: where metrics and samples go besides `RUN/metrics.jsonl` and `RUN/report.html`.
        validate_batches: most batches one validation reads; None reads them all.
        log_every, save_every, validate_every, sample_every: in steps; None switches the last three off.
        adapter_base: the base `model` was extended from, as `liquid extend` takes it; a LoRA or rows run then also
            writes the small form of its result, which stores only the difference to that base.
        adapter_dtype: of the weights in that form; None: bfloat16 where `precision` is `bf16`.
        guidance_scale: classifier-free guidance that suits the result, stored with it as the default for drawing;
            None: as in `model`.
        taught: styles, sizes and examples to offer those who use the result; None: as in `model`.
        keep: how many of the latest checkpoints stay.
    """

    model: Path
    output: Path
    start_from: Path | None = None
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
    loss_weights: LossWeights = LossWeights()
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"
    activation_checkpointing: bool = False
    compile: bool = False
    shard: Shard = 1
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    context_parallel: Annotated[int, Field(ge=1)] = 1
    layouts: dict[Annotated[int, Field(ge=1)], LayoutConfig] = Field(default_factory=dict)
    architecture: ArchitectureConfig | None = None
    peak_flops: Annotated[float | None, Field(gt=0)] = None
    on_bad_step: Literal["stop", "skip"] = "stop"
    spike: Annotated[float | None, Field(gt=1)] = None
    trackers: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ("tensorboard",)
    adapter_base: str | None = None
    adapter_dtype: Literal["float32", "bfloat16"] | None = None
    guidance_scale: Annotated[float | None, Field(ge=1)] = None
    taught: Taught | None = None
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
        if any(tensor > 1 for tensor, _ in self.widths):
            if self.method != "full":
                raise ValueError("tensor_parallel is for method full: new rows and LoRA layers are not cut.")
            if self.compile:
                raise ValueError("tensor_parallel and compile do not go together: set compile: false.")
            if self.sample_every is not None:
                raise ValueError(
                    "tensor_parallel: no process has a whole model to sample from: set sample_every: null."
                )
        if self.compile and any(context > 1 for _, context in self.widths):
            raise ValueError("context_parallel and compile do not go together: set compile: false.")
        return self

    @property
    def widths(self) -> set[tuple[int, int]]:
        """`tensor_parallel` and `context_parallel`, here and in the layouts."""
        here = self.tensor_parallel, self.context_parallel
        return {here, *map(self._widths, self.layouts.values())}

    def _widths(self, layout: LayoutConfig | None) -> tuple[int, int]:
        tensor, context = (layout.tensor_parallel, layout.context_parallel) if layout else (None, None)
        return tensor or self.tensor_parallel, context or self.context_parallel

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimiser step, over all processes."""
        return self.data.batch_size * self.grad_accum

    def on(self, world: int) -> TrainConfig:
        """These settings as they are on `world` processes.

        Raises:
            UserError: the rows of a step, or the processes, cannot be shared out so.
        """
        config, layout = self, self.layouts.get(world)
        tensor, context = self._widths(layout)
        if world % (tensor * context):
            names = {"tensor_parallel": tensor, "context_parallel": context}
            said = " with ".join(f"{name} {size}" for name, size in names.items() if size > 1)
            raise UserError(f"{said}: {world} processes do not form whole groups of {tensor * context}.")
        groups = world // (tensor * context)
        if layout:
            together = groups * layout.rows
            if self.rows_per_step % together:
                size = tensor * context
                raise UserError(
                    f"layouts.{world}: {groups} {'processes' if size == 1 else f'groups of {size} processes'} of "
                    f"{layout.rows} rows make {together} at once, which does not divide the {self.rows_per_step} rows "
                    f"of a step (data.batch_size × grad_accum)."
                )
            changes: dict[str, Any] = {
                "shard": layout.shard,
                "tensor_parallel": tensor,
                "context_parallel": context,
                "grad_accum": self.rows_per_step // together,
                "data": self.data.model_copy(update={"batch_size": together}),
            }
            if layout.activation_checkpointing is not None:
                changes["activation_checkpointing"] = layout.activation_checkpointing
            config = self.model_copy(update=changes)
        whole = world // tensor  # each of these could hold a copy of the parameters
        shard = whole if config.shard == "all" else config.shard
        if whole % shard:
            of = f" in groups of {tensor}" if tensor > 1 else ""
            raise UserError(f"shard {shard}: {world} processes{of} do not form whole groups of that many.")
        for name, part in (("data", self.data), ("validation", self.validation)):
            if part is not None and part.seq_len % context:
                raise UserError(f"context_parallel {context}: does not divide {name}.seq_len {part.seq_len}.")
        if self.validation is not None and self.validation.batch_size % groups:
            raise UserError(
                f"validation.batch_size {self.validation.batch_size} cannot be shared by {world} processes: it must be "
                f"a multiple of {groups}."
            )
        return config.model_copy(update={"shard": shard})
