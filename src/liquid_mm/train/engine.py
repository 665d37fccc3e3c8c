"""Devices and processes, so that the loop need not know of them. The only importer of accelerate.

Started alone, under `torchrun` or under `accelerate launch`, each process makes one `Engine`; on CPU several processes
talk over gloo. How they share model and rows is said by three numbers:

    8 processes, shard 1      8 whole copies, gradients averaged (DDP)
    8 processes, shard 8      one copy, each process holds an eighth of parameters, gradients and moments (FSDP2)
    8 processes, shard 4      2 copies of 4 parts (HSDP)
    8 processes, shard 4, tensor 2      one copy in 4 parts, of which two processes each compute half of every layer
    8 processes, shard 8, context 2     one copy in 8 parts; two processes each compute half of every row

Trained parameters stay in float32; `precision="bf16"` makes products in bfloat16, by autocast and, where parameters are
gathered from several processes, by gathering them in that type.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from liquid_mm.errors import UserError
from liquid_mm.train.shards import whole
from liquid_mm.train.tensor import clip_by_meshes, cut, settle_gradients


class Engine:
    """This process's place among all, and what it computes with.

    Args:
        precision: type of matrix products.
        shard: processes, or groups of `tensor` of them, that share one copy of the model.
        tensor: processes that compute each layer together; shard · tensor divides the number of processes.
        context: processes that compute each row together; tensor · context divides the number of processes.
    """

    def __init__(
        self, precision: Literal["bf16", "fp32"] = "fp32", shard: int = 1, tensor: int = 1, context: int = 1
    ) -> None:
        # No buffer changes in training, and autocast is ours: accelerate's would convert every output to float32.
        wrapping = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        # Only when told to compute on the CPU does accelerate look for other processes there.
        no_accelerator = not torch.accelerator.is_available()
        self._accelerator: Any = Accelerator(cpu=no_accelerator, mixed_precision="no", kwargs_handlers=[wrapping])
        expected = processes()
        if self.world != expected:
            raise UserError(
                f"the launcher started {expected} processes (WORLD_SIZE) but this one sees {self.world}: "
                f"start with torchrun or accelerate launch, which also set RANK, LOCAL_RANK and MASTER_ADDR."
            )
        self._bf16 = precision == "bf16"
        assert self.world % (shard * tensor) == 0
        assert self.world % (tensor * context) == 0
        self.tensor, self.context = tensor, context
        self._partial: list[nn.Module] = []
        self._mesh: DeviceMesh | None = None
        if shard * tensor > 1:
            # By torch itself: accelerate's FSDP exists on accelerators only and wants to make the optimiser's groups.
            shape = (self.world // (shard * tensor), shard, tensor)
            self._mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("copies", "shard", "tensor"))
        self.context_mesh: DeviceMesh | None = None
        """The processes that compute the same rows, in the order of their stretches; None: each computes its own."""
        if context > 1:
            shape = (self.world // (context * tensor), context, tensor)
            mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("rows", "context", "tensor"))
            self.context_mesh = mesh["context"]
        # Checkpoints are written in the background, where they must not meet the messages of a training step.
        self.background: Any = self._patient()
        self._waiting: Any = self._patient()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        value: torch.device = self._accelerator.device
        return value

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        value: int = self._accelerator.process_index
        return value

    @property
    def world(self) -> int:
        """How many processes there are."""
        value: int = self._accelerator.num_processes
        return value

    @property
    def data_rank(self) -> int:
        """Which share of the data this process reads, from 0: those that compute layers or rows together: the same."""
        return self.rank // (self.tensor * self.context)

    @property
    def data_world(self) -> int:
        """How many shares the data has."""
        return self.world // (self.tensor * self.context)

    @property
    def loss_rank(self) -> int:
        """Which part of a step's targets is this process's, from 0; those that compute layers together: the same."""
        return self.rank // self.tensor

    @property
    def loss_world(self) -> int:
        """How many parts a step's targets have; gradients are averaged over these."""
        return self.world // self.tensor

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        value: bool = self._accelerator.is_main_process
        return value

    @property
    def sharded(self) -> bool:
        """Whether processes hold parts of the model."""
        return self._mesh is not None

    def wrap(self, module: nn.Module, blocks: Iterable[nn.Module], cuts: Mapping[str, str] | None = None) -> Any:
        """Move `module` to the device and share gradients, and where asked parameters, with the other processes.

        Args:
            module: what is trained; called as a whole.
            blocks: its layers. Where parameters are shared, one block at a time is whole on a process, and what is in
                no block (embedding, head) from forward to backward.
            cuts: how processes that compute layers together cut them (`tensor.cuts`); needed where there are such.
        """
        if self._mesh is None:
            return self._accelerator.prepare_model(module)
        mesh = self._mesh["copies", "shard"] if self._mesh.size(0) > 1 else self._mesh["shard"]
        kind = torch.bfloat16 if self._bf16 else None
        policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)
        names = {part: f"{name}." for name, part in module.named_modules()}
        for block in blocks:
            if self.tensor > 1:  # one layer after another: all of them at once may be too much for a device
                assert cuts is not None, "layers computed together need to know how"
                inside = {
                    name.removeprefix(names[block]): how for name, how in cuts.items() if name.startswith(names[block])
                }
                self._partial += cut(block, inside, self._mesh["tensor"])
            fully_shard(block, mesh=mesh, mp_policy=policy)
        return fully_shard(module, mesh=mesh, mp_policy=policy)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context to run forward passes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gradients(self, wrapped: Any, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Context of one backward pass; processes exchange gradients in the `last` one of a step alone.

        Sharded gradients are exchanged in each: kept until the last they would be as large as the whole model.
        """
        return contextlib.nullcontext() if last or self.sharded else self._accelerator.no_sync(wrapped)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate the scalar `loss`."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
        """Gradient norm over all `parameters` (a scalar, on the device); above `limit` gradients are scaled to it."""
        parameters, limit = list(parameters), float("inf") if limit is None else limit
        if self.tensor == 1:
            return whole(torch.nn.utils.clip_grad_norm_(parameters, limit))
        assert self._mesh is not None
        settle_gradients(parameters, self._partial, self._mesh["tensor"])
        return clip_by_meshes(parameters, limit)

    @contextlib.contextmanager
    def gathered(self, wrapped: Any) -> Iterator[None]:
        """Inside, each process holds the whole of `wrapped` and may compute with it alone, without gradients."""
        parts = [part for part in wrapped.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not wrapped, recurse=False)

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole copies of `tensors` in the main process's CPU memory; nothing elsewhere. All processes take part."""
        collected = {}
        for name, tensor in tensors.items():
            value = whole(tensor.detach())
            if self.is_main:
                collected[name] = value.cpu()
        return collected

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all parts of the targets, the same on all processes."""
        summed: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        # Those that compute layers together have counted the same.
        return summed if self.tensor == 1 else summed / self.tensor

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum of each of a few numbers over all parts of the targets."""
        if self.world == 1:
            return list(values)
        kind = torch.float32 if self.device.type == "mps" else torch.float64  # Metal has no float64
        total: list[float] = self.sum(torch.tensor(values, device=self.device, dtype=kind)).tolist()
        return total

    def gather(self, value: Any) -> list[Any]:
        """A picklable object of every process, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def whole_rows(self, stretch: Tensor) -> Tensor:
        """The rows (B, T) of which each process that computes them has a stretch (B, T/n), the same on these."""
        if self.context_mesh is None:
            return stretch
        parts = [torch.empty_like(stretch) for _ in range(self.context)]
        torch.distributed.all_gather(parts, stretch.contiguous(), group=self.context_mesh.get_group())
        return torch.cat(parts, 1)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            torch.distributed.barrier(group=self._waiting)

    def _patient(self) -> Any:
        """A group of all processes for what takes one of them long, as writing a large model; NCCL's gives up soon."""
        return torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=6)) if self.world > 1 else None

    def close(self) -> None:
        """Leave the group of processes."""
        self._accelerator.end_training()


def processes() -> int:
    """How many processes the launcher started (`WORLD_SIZE`); 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def open_trackers(names: Iterable[str], run: Path, step: int) -> list[Any]:
    """Start accelerate's trackers `names` for the run folder `run`; `step` is the last that counts of earlier reports.

    Raises:
        UserError: the package behind a name is not installed.
    """
    trackers = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trackers: {name} is not installed: pip install {name}, or leave it out of the recipe.")
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind("tensorboard", run, purge_step=step + 1)  # RUN/tensorboard
        else:
            folder = [run] if kind.requires_logging_directory else []
            tracker = kind(run.name, *folder)
        tracker.start()
        trackers.append(tracker)
    return trackers
