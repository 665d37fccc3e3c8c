"""A training run from its config to a finished checkpoint folder.

    train(load_config(TrainConfig, "recipes/emoji/train.yaml"))

The run folder then holds:

    config.yaml          every setting, defaults included
    metrics.jsonl        losses and speeds; tensorboard/, or what other trackers write, has the same as curves
    report.html          curves and samples on one page
    samples/step-N/      whatever the `on_sample` hook writes
    checkpoints/step-N/  to resume from
    bad/step-N.json      what the batch of a step held that was not taken
    final/               the finished model, as `liquid_mm.load` takes it
    adapter/             the same model as a small difference to `adapter_base`, where that is given
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from liquid_mm.checkpoint import Checkpoint, load_checkpoint
from liquid_mm.config import changed_keys, load_config, save_config
from liquid_mm.data.mixture import build_mixture, build_validation
from liquid_mm.errors import UserError
from liquid_mm.files import sole_writer
from liquid_mm.record import stored_base
from liquid_mm.train.adapt import Learner
from liquid_mm.train.checkpoint import checkpoints
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.engine import Engine, processes
from liquid_mm.train.export import check_adapter_base, export
from liquid_mm.train.loop import Trainer, samples_folder
from liquid_mm.train.records import describe
from liquid_mm.train.start import first_stage, is_adapter, load_adapter
from liquid_mm.vocab.prompts import Renderer

OnSample = Callable[[Checkpoint, int, Path], None]
"""Called as `on_sample(checkpoint, step, folder)`, the model as it stands, in evaluation mode and without gradients."""

FREE = {
    "output", "log_every", "save_every", "keep", "validate_every", "validate_batches", "sample_every", "validation",
    "activation_checkpointing", "compile", "shard", "tensor_parallel", "context_parallel", "layouts", "architecture",
    "peak_flops", "trackers", "on_bad_step",
    "guidance_scale", "taught", "adapter_dtype",
    "data.workers",
}  # fmt: skip
"""Settings a resumed run may change: none of them touches what is learned."""


def train(
    config: TrainConfig, *, resume: bool = False, on_sample: OnSample | None = None, progress: bool = True
) -> Path:
    """Train a Liquid model (paper section 4.1).

    Args:
        config: the run's settings.
        resume: go on from the newest checkpoint in the run folder; without one, start.
        on_sample: writes samples of the model into the folder it is given, every `config.sample_every` steps.
        progress: show a progress bar.

    Returns:
        `RUN/final`, a checkpoint folder.

    Raises:
        UserError: a path, setting or data set does not fit, another process writes to the run's folder, the disk is
            full, or the loss is no longer finite.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was kept.
    """
    run = config.output
    final = run / "final"
    _check_folder(config, resume)
    if final.exists():
        return final
    begun = resume and checkpoints(run / "checkpoints")
    first = None if begun else first_stage(config)
    here = config.on(processes())
    engine = Engine(here.precision, int(here.shard), here.tensor_parallel, here.context_parallel)
    alone = contextlib.ExitStack()
    try:
        base = load_checkpoint(config.model, device="cpu", dtype="float32")
        begins = first if first is not None and is_adapter(first) else None
        for source in {config.adapter_base, None if begins is None else stored_base(begins)}:
            if source is not None:
                check_adapter_base(base, config.model, source)
        torch.manual_seed(config.seed)
        learner = Learner(base.llm, base.vocabulary, here)
        if begins is not None:
            load_adapter(learner, base, begins)
        renderer = Renderer(base.tokenizer, base.vocabulary)
        fingerprint = base.image_tokenizer.fingerprint
        share = {"rank": engine.data_rank, "world": engine.data_world}
        mixture = build_mixture(here.data, renderer, **share, fingerprint=fingerprint)
        validation = None
        if config.validation is not None:
            validation = build_validation(config.validation, renderer, **share, fingerprint=fingerprint)
        if engine.is_main:
            alone.enter_context(sole_writer(run))
            # Another process may have gone on with the run, or ended it, while this one loaded.
            _check_folder(config, resume)
        if engine.gather([final.exists()])[0][0]:
            return final
        if engine.is_main:
            save_config(config, run / "config.yaml")

        def sample(step: int) -> None:
            assert on_sample is not None
            on_sample(dataclasses.replace(base, llm=learner.llm), step, samples_folder(run, step))

        trainer = Trainer(
            learner,
            mixture,
            here,
            engine,
            validation=validation,
            sample=sample if on_sample else None,
            describe=lambda batch, costs: describe(batch, costs, renderer, [s.path for s in here.data.sources]),
            progress=progress,
        )
        if first is not None and begins is None:
            trainer.start_from(first)
        if resume:
            trainer.resume()
        trainer.run()
        trained = engine.collect(trainer.trained) if engine.sharded else {}
        if engine.is_main:
            if engine.sharded:  # the parts of a model that was spread over processes do not make one again
                base = load_checkpoint(config.model, device="cpu", dtype="float32")
                one = here.model_copy(update={"tensor_parallel": 1, "context_parallel": 1})
                learner = Learner(base.llm, base.vocabulary, one)
                learner.load_trained(trained)
            export(learner, base, config)
        engine.wait()
    finally:
        engine.close()
        alone.close()
    return final


def _check_folder(config: TrainConfig, resume: bool) -> None:
    """Refuse to mix two runs in one folder."""
    run = config.output
    if not resume:
        if (run / "final").exists() or (run / "adapter").exists() or checkpoints(run / "checkpoints"):
            raise UserError(f"{run} already holds a run: add --resume to go on with it, or choose another output.")
        return
    if not (run / "config.yaml").exists():
        return
    before = load_config(TrainConfig, run / "config.yaml")
    changed = [key for key in changed_keys(before, config) if not FREE & {key, key.split(".")[0]}]
    if before.rows_per_step == config.rows_per_step:
        changed = [key for key in changed if key not in ("data.batch_size", "grad_accum")]
    if changed:
        raise UserError(
            f"cannot resume {run} with other settings: {', '.join(changed)} differ from its config.yaml. "
            f"Free to change: {', '.join(sorted(FREE))}; data.batch_size and grad_accum if their product stays."
        )
