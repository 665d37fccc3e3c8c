"""The training loop. It knows batches, a loss and steps; what the ids mean is not its business.

    batches ──► Inputs ──► Learner ──► summed loss / targets of the whole step ──► AdamW     (× steps)
                                                     └─► Meter ──► report, validate, sample, save

The loss is the mean over every target of the step, whatever batch or process it lies in, so gradient accumulation and
the number of processes change nothing. At the end of a step, and only there, a run can be stopped and resumed exactly.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from liquid_mm.errors import UserError
from liquid_mm.train import checkpoint
from liquid_mm.train.adapt import Learner
from liquid_mm.train.attention import Documents
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.engine import Engine
from liquid_mm.train.metrics import Meter, Recorder
from liquid_mm.train.optim import factor, make_optimizer, set_learning_rate


class Batches(Protocol):
    """An endless iterator of batches (`liquid_mm.data.mixture.Batch`) that can tell and take its place."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """A JSON-serialisable value, the same on every process."""

    def set_state(self, state: Any) -> None:
        """Go to where `get_state` was called."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM after its checkpoint was written; the message says how to go on."""


class Inputs(NamedTuple):
    """A batch as tensors: ids and positions (B, T); of N targets the flat index before them, their id and modality.

    `documents` is for the CPU alone; elsewhere the mask made from the positions costs little.
    """

    ids: Tensor
    positions: Tensor
    where: Tensor
    targets: Tensor
    modality: Tensor
    documents: Documents | None


def to_inputs(batch: Any, device: torch.device) -> Inputs:
    """Shift the targets of a packed batch: id t is predicted at t-1, never across documents."""
    mask = batch["loss_mask"].copy()
    mask[:, 0] = False
    mask[:, 1:] &= batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    at = np.flatnonzero(mask)
    documents = Documents.of(batch["segment_ids"]) if device.type == "cpu" else None
    kinds = batch["modality"].reshape(-1)[at].astype(np.int64)
    arrays = (batch["ids"], batch["positions"], at - 1, batch["ids"].reshape(-1)[at], kinds)
    ids, positions, where, targets, modality = (torch.from_numpy(a).to(device, non_blocking=True) for a in arrays)
    return Inputs(ids, positions, where, targets, modality, documents)


class Trainer:
    """One run in progress.

    Args:
        learner: the model, set up for its method.
        batches: what to train on; every process has its share of each batch.
        config: the run's settings.
        engine: devices and processes.
        validation: batches to validate on; iterated anew each time.
        sample: called with the step on the main process, model in evaluation mode, every `config.sample_every` steps.
        progress: show a progress bar.
    """

    def __init__(
        self,
        learner: Learner,
        batches: Batches,
        config: TrainConfig,
        engine: Engine,
        *,
        validation: Iterable[Any] | None = None,
        sample: Callable[[int], None] | None = None,
        progress: bool = True,
    ) -> None:
        self.learner, self.batches, self.config, self.engine = learner, batches, config, engine
        self.validation, self.sample, self.progress = validation, sample, progress
        self.model = engine.wrap(learner)
        self.trained = learner.trained()
        self.optimizer = make_optimizer(learner, config)
        self.meter = Meter(engine.device)
        self.state = checkpoint.Progress()
        self.root = config.output / "checkpoints"
        torch.manual_seed(config.seed + engine.rank)  # each process drops out other units

    def resume(self) -> None:
        """Go to the newest checkpoint; without one, stay at the start."""
        found = checkpoint.checkpoints(self.root)
        if not found:
            return
        self.state, trained, state = checkpoint.load(found[-1])
        self.learner.load_trained(trained)
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.set_state(self.state.data)
        if self.engine.is_main:  # the sums are those of all processes
            self.meter.sums.copy_(state["sums"])
        if len(state["rng"]) == self.engine.world:
            checkpoint.set_random_state(state["rng"][self.engine.rank])

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Interrupted: a signal asked to stop; a checkpoint was kept.
            UserError: the loss is not finite, or the disk is full.
        """
        with contextlib.ExitStack() as stack:
            stopping = stack.enter_context(_signals())
            recorder = Recorder(self.config.output, self.state.step) if self.engine.is_main else None
            if recorder:
                stack.callback(recorder.close)
            shown = self.progress and self.engine.is_main
            bar = tqdm(total=self.config.steps, initial=self.state.step, unit="step", disable=not shown)
            stack.enter_context(bar)
            since, tokens = time.perf_counter(), self.state.tokens
            while self.state.step < self.config.steps:
                norm, stop = self._step(stopping)
                bar.update()
                if self._due(self.config.log_every):
                    seconds = time.perf_counter() - since
                    speed = (self.state.tokens - tokens) / seconds
                    values = self._read(self.meter) | {
                        "grad_norm": float(norm),
                        "lr": factor(self.state.step - 1, self.config.steps, self.config.schedule) * self.config.lr,
                        "tokens": self.state.tokens,
                        "tokens_per_second": speed,
                    }
                    self.meter.reset()
                    bar.set_postfix_str(f"loss {values['loss']:.3f}, {speed:.0f} tokens/s")
                    self._report(recorder, "train", values)
                self._pause(recorder)
                if stop or self._due(self.config.save_every):
                    self.save()
                if stop:
                    raise Interrupted(
                        f"stopped after step {self.state.step} of {self.config.steps}; a checkpoint is kept in "
                        f"{self.root}. Run the same command with --resume to go on."
                    )
                if self._due(self.config.log_every):
                    since, tokens = time.perf_counter(), self.state.tokens

    def _due(self, every: int | None) -> bool:
        return every is not None and (self.state.step % every == 0 or self.state.step == self.config.steps)

    def _step(self, signals: list[int]) -> tuple[Tensor, bool]:
        """One optimiser step; returns the gradient norm and whether any process wants to stop."""
        batches = [next(self.batches) for _ in range(self.config.grad_accum)]
        inputs = [to_inputs(batch, self.engine.device) for batch in batches]
        read = sum(int(np.count_nonzero(batch["segment_ids"])) for batch in batches)
        targets, read, stops = self.engine.total([sum(len(x.targets) for x in inputs), read, len(signals)])
        set_learning_rate(self.optimizer, factor(self.state.step, self.config.steps, self.config.schedule))
        self.learner.train()
        for x in inputs:
            with self.engine.gradients(self.model, last=x is inputs[-1]):
                with self.engine.autocast():
                    loss, stats = self.model(x.ids, x.positions, x.where, x.targets, x.documents)
                # Wrapped models average gradients over processes; the mean wanted is over targets.
                self.engine.backward(loss * (self.engine.world / max(targets, 1)))
            self.meter.add(stats, x.modality)
        norm = self.engine.clip(self.trained.values(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.learner.after_step()
        self.state.step += 1
        self.state.tokens += read
        return norm, stops > 0

    def _read(self, meter: Meter) -> dict[str, float]:
        """The meter's means over all processes, which must be finite."""
        values = Meter.read(self.engine.sum(meter.sums))
        if not math.isfinite(values.get("loss", 0.0)):
            raise UserError(
                f"the loss is not finite after step {self.state.step}: lower lr or new_rows_lr, or clip harder. "
                f"Checkpoints in {self.root} are from before."
            )
        return values

    def _report(self, recorder: Recorder | None, kind: str, values: dict[str, Any]) -> None:
        if recorder:
            recorder.report(self.state.step, kind, values)

    @torch.no_grad()
    def _pause(self, recorder: Recorder | None) -> None:
        """Validation and samples, where due; neither touches the random state of training."""
        validate = self.validation is not None and self._due(self.config.validate_every)
        sample = self.sample is not None and self._due(self.config.sample_every)
        if not validate and not sample:
            return
        self.learner.eval()
        with torch.random.fork_rng(), self.engine.autocast():
            if validate:
                self._report(recorder, "validation", self._validate())
            if sample and self.engine.is_main:
                assert self.sample is not None
                self.sample(self.state.step)
        self.engine.wait()

    def _validate(self) -> dict[str, float]:
        meter = Meter(self.engine.device)
        assert self.validation is not None
        for number, batch in enumerate(self.validation):
            if number == self.config.validate_batches:
                break
            x = to_inputs(batch, self.engine.device)
            _, stats = self.learner(x.ids, x.positions, x.where, x.targets, x.documents)
            meter.add(stats, x.modality)
        return self._read(meter)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self._read(self.meter)
        state = checkpoint.State(
            optimizer=self.optimizer.state_dict(),
            rng=self.engine.gather(checkpoint.random_state()),
            sums=self.engine.sum(self.meter.sums),
        )
        self.state.data = self.batches.get_state()
        if self.engine.is_main:
            checkpoint.save(self.root, self.state, self.trained, state)
            checkpoint.prune(self.root, self.config.keep)
        self.engine.wait()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM in the list yielded, so that a step is never cut in two.

    A second one ends the run at once. Outside the main thread signals stay as they are.
    """
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return

    def take(number: int, frame: Any) -> None:
        if got:
            raise KeyboardInterrupt
        got.append(number)

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
