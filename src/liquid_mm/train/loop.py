"""The training loop. It knows batches, a loss and steps; what the ids mean is not its business.

    batches ──► Inputs ──► Learner ──► summed loss / targets of the whole step ──► AdamW     (× steps)
                                                     └─► Meter ──► report, validate, sample, save

The loss is the (weighted) mean over every target of the step, whatever batch or process it lies in, so gradient
accumulation and the number of processes change nothing. At the end of a step, and only there, a run can be stopped and
resumed exactly.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from liquid_mm.train import bad_step, checkpoint
from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.engine import Engine, open_trackers
from liquid_mm.train.flops import Cost, peak_flops
from liquid_mm.train.guard import Guard, Trouble
from liquid_mm.train.inputs import Batches, sizes, to_inputs
from liquid_mm.train.metrics import Meter, Recorder, modality_weights
from liquid_mm.train.optim import factor, make_optimizer, set_learning_rate
from liquid_mm.train.report import write_report
from liquid_mm.train.signals import Interrupted, stop_signals
from liquid_mm.train.tensor import cuts


class Trainer:
    """One run in progress.

    Args:
        learner: the model, set up for its method.
        batches: what to train on; every process has its share of each batch.
        config: the run's settings, as they are on this number of processes.
        engine: devices and processes.
        validation: batches to validate on; iterated anew each time.
        sample: called with the step on the main process, model in evaluation mode, every `config.sample_every` steps.
        describe: what a batch of this process holds; for the report on a bad step.
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
        describe: bad_step.Describe | None = None,
        progress: bool = True,
    ) -> None:
        self.learner, self.batches, self.config, self.engine = learner, batches, config, engine
        self.validation, self.sample, self.describe, self.progress = validation, sample, describe, progress
        self.cost = Cost.of(learner)
        self.peak = config.peak_flops or peak_flops(engine.device)
        parts = config.tensor_parallel
        named = {f"llm.{name}": how for name, how in cuts(learner.llm, parts).items()} if parts > 1 else None
        self.model = engine.wrap(learner, learner.blocks(), named)
        self.trained = learner.trained()
        self.optimizer = make_optimizer(learner, config)
        self.meter = self._new_meter()
        self.weights = modality_weights(config.loss_weights, engine.device)
        self.state = checkpoint.Progress()
        self.root = config.output / "checkpoints"
        self.checkpoints = checkpoint.Checkpointer(self.root, engine, config.keep)
        self.guard = Guard(config)
        self.work = 0.0
        torch.manual_seed(config.seed + engine.loss_rank)  # other targets, other units dropped out

    def resume(self) -> None:
        """Go to the newest checkpoint; without one, stay at the start."""
        found = checkpoint.checkpoints(self.root)
        if not found:
            return
        self.state = checkpoint.read_progress(found[-1])
        tensors = self._tensors(self.meter)
        self.checkpoints.verify(found[-1])
        # Another number of processes or of GPUs has no random states of its own here.
        engine = self.engine
        here = engine.world, engine.tensor, engine.context
        same = (self.state.world, self.state.tensor, self.state.context) == here
        random = self._random() if same else {}
        random = random if random.keys() <= self.checkpoints.names(found[-1]) else {}
        self.checkpoints.load(found[-1], tensors | random)
        self.learner.after_step()
        self.batches.set_state(self.state.data)
        if self.engine.loss_rank != 0:  # the sums are those of all parts of the targets
            self.meter.reset()
        if random:
            checkpoint.set_random_state(random.values())

    def start_from(self, folder: Path) -> None:
        """Take the trained weights of another run's checkpoint, and nothing else of it."""
        tensors = {name: value for name, value in self._tensors(self.meter).items() if name.startswith("trained/")}
        self.checkpoints.verify(folder)
        self.checkpoints.load(folder, tensors)
        self.learner.after_step()

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Interrupted: a signal asked to stop; a checkpoint was kept.
            UserError: the loss is not finite, or the disk is full.
        """
        with contextlib.ExitStack() as stack:
            stopping = stack.enter_context(stop_signals())
            stack.callback(self.checkpoints.close)
            recorder = self._recorder() if self.engine.is_main else None
            if recorder:
                stack.callback(recorder.close)
            shown = self.progress and self.engine.is_main
            bar = tqdm(total=self.config.steps, initial=self.state.step, unit="step", disable=not shown)
            stack.enter_context(bar)
            since, tokens, self.work = time.perf_counter(), self.state.tokens, 0.0
            while self.state.step < self.config.steps:
                norm, stop = self._step(stopping, recorder)
                bar.update()
                if self._due(self.config.log_every):
                    seconds = time.perf_counter() - since
                    values = self._read(self.meter) | self._speed(seconds, self.state.tokens - tokens)
                    values |= {
                        "grad_norm": norm,
                        "lr": factor(self.state.step - 1, self.config.steps, self.config.schedule) * self.config.lr,
                        "tokens": self.state.tokens,
                    }
                    self.meter.reset()
                    loss = values.get("loss", math.nan)
                    bar.set_postfix_str(f"loss {loss:.3f}, {values['tokens_per_second']:.0f} tokens/s")
                    self._report(recorder, "train", values)
                # First what must not be lost: samples may fail, and who sends a signal may not wait for them.
                if stop or self._due(self.config.save_every):
                    self.save()
                if not stop:
                    self._pause(recorder)
                else:
                    self.checkpoints.wait()
                    raise Interrupted(
                        f"stopped after step {self.state.step} of {self.config.steps}; a checkpoint is kept in "
                        f"{self.root}. Run the same command with --resume to go on.",
                        preempted=signal.SIGINT not in stopping,
                    )
                self.checkpoints.check()
                if self._due(self.config.log_every):
                    since, tokens, self.work = time.perf_counter(), self.state.tokens, 0.0
            self.checkpoints.wait()
            if recorder:
                write_report(self.config.output)

    def _recorder(self) -> Recorder:
        run, step = self.config.output, self.state.step
        return Recorder(run, step, open_trackers(self.config.trackers, run, step))

    def _due(self, every: int | None) -> bool:
        return every is not None and (self.state.step % every == 0 or self.state.step == self.config.steps)

    def _step(self, signals: list[int], recorder: Recorder | None) -> tuple[float, bool]:
        """One optimiser step; returns the gradient norm and whether any process wants to stop."""
        place = self.batches.get_state()
        batches = [next(self.batches) for _ in range(self.config.grad_accum)]
        inputs = [to_inputs(batch, self.engine.device, self.engine.context_mesh) for batch in batches]
        # Of the processes that compute the same rows one counts their tokens.
        mine = self.engine.loss_rank % self.engine.context == 0
        read = map(sum, zip(*map(sizes, batches), strict=True)) if mine else (0, 0)
        counts = [sum(len(x.targets) for x in inputs), *read, len(signals)]
        targets, tokens, pairs, stops = self.engine.total(counts)
        weights = [None if self.weights is None else self.weights[x.modality] for x in inputs]
        weight = targets
        if self.weights is not None:
            (weight,) = self.engine.total([float(torch.cat([each for each in weights if each is not None]).sum())])
        set_learning_rate(self.optimizer, factor(self.state.step, self.config.steps, self.config.schedule))
        self.learner.train()
        seen = []
        for x, each in zip(inputs, weights, strict=True):
            with self.engine.gradients(self.model, last=x is inputs[-1]):
                with self.engine.autocast():
                    loss, stats = self.model(x.ids, x.positions, x.where, x.targets, x.documents, each, x.context)
                # Wrapped models average gradients over processes; the mean wanted is over targets.
                self.engine.backward(loss * (self.engine.loss_world / (weight or 1)))
            seen.append(stats)
        norm = float(self.engine.clip(self.trained.values(), self.config.clip))
        (total,) = self.engine.total([float(torch.stack([stats.loss.sum() for stats in seen]).sum())])
        self.state.step += 1
        self.state.tokens += int(tokens)
        self.work += self.cost.step(tokens, targets, pairs)
        if trouble := self.guard.judge(self.state, total / max(targets, 1), norm):
            costs = [bad_step.token_costs(self.engine, *each) for each in zip(inputs, seen, strict=True)]
            self._refuse(trouble, place, batches, costs, recorder)
        else:
            for x, stats in zip(inputs, seen, strict=True):
                self.meter.add(stats, x.targets, x.modality)
            self.optimizer.step()
            self.learner.after_step()
        self.optimizer.zero_grad()
        return norm, stops > 0

    def _refuse(
        self, trouble: Trouble, place: Any, batches: list[Any], costs: list[Any], recorder: Recorder | None
    ) -> None:
        """Write down what the batch of a bad step held; go on without it, if that is allowed."""
        run, step = self.config.output, self.state.step
        documents = bad_step.documents_of(self.engine, self.describe, batches, costs)
        if self.engine.is_main:
            bad_step.write(run, step, trouble, place, documents)
        self._report(recorder, "bad", trouble.values())
        if self.config.on_bad_step == "stop" or self.guard.hopeless:
            raise bad_step.error(run, self.config.model, step, trouble, documents)

    def _new_meter(self) -> Meter:
        return Meter(self.engine.device, self.learner.vocabulary)

    def _read(self, meter: Meter) -> dict[str, float]:
        """The meter's means over all processes."""
        return Meter.read(self.engine.sum(meter.sums), self.engine.sum(meter.codes))

    def _speed(self, seconds: float, tokens: int) -> dict[str, float]:
        """Tokens a second over all processes and, where the devices' peak is known, the share of it that was used."""
        values = {"tokens_per_second": tokens / seconds}
        if self.peak:
            values["mfu"] = self.work / seconds / (self.peak * self.engine.world)
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
            if sample:
                with self.engine.gathered(self.model):
                    if recorder:
                        assert self.sample is not None
                        self.sample(self.state.step)
                        recorder.samples(self.state.step, samples_folder(self.config.output, self.state.step))
                    self.engine.wait()
        if recorder:
            write_report(self.config.output)
        self.engine.wait()

    def _validate(self) -> dict[str, float]:
        meter = self._new_meter()
        assert self.validation is not None
        for number, batch in enumerate(self.validation):
            if number == self.config.validate_batches:
                break
            x = to_inputs(batch, self.engine.device, self.engine.context_mesh)
            _, stats = self.learner(x.ids, x.positions, x.where, x.targets, x.documents, None, x.context)
            meter.add(stats, x.targets, x.modality)
        return self._read(meter)

    def save(self) -> None:
        """Start writing a checkpoint of this moment."""
        self.state.data = self.batches.get_state()
        together = self._new_meter()
        together.sums, together.codes = self.engine.sum(self.meter.sums), self.engine.sum(self.meter.codes)
        self.checkpoints.save(self.state, self._tensors(together) | self._random())

    def _tensors(self, meter: Meter) -> dict[str, Tensor]:
        """All that a checkpoint holds of what the processes share, by name."""
        tensors: dict[str, Tensor] = {"meter/sums": meter.sums, "meter/codes": meter.codes}
        for name, parameter in self.trained.items():
            tensors[f"trained/{name}"] = parameter.detach()
            tensors |= {f"adamw/{name}/{key}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    def _random(self) -> dict[str, Tensor]:
        """This process's random generators."""
        return {f"random/{self.engine.rank}/{n}": state for n, state in enumerate(checkpoint.random_state())}


def samples_folder(run: Path, step: int) -> Path:
    """Where the samples of a step lie."""
    return run / "samples" / f"step-{step:08d}"
