"""Devices and processes, so that the loop need not know of them. The only importer of accelerate.

Started alone, under `torchrun` or under `accelerate launch`, each process makes one `Engine`; on CPU several processes
talk over gloo. Parameters stay in float32; `precision="bf16"` makes products in bfloat16 by autocast.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from liquid_mm.errors import UserError


class Engine:
    """This process's place among all, and what it computes with.

    Args:
        precision: type of matrix products.
    """

    def __init__(self, precision: Literal["bf16", "fp32"] = "fp32") -> None:
        # No buffer changes in training, and autocast is ours: accelerate's would convert every output to float32.
        wrapping = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        # Only when told to compute on the CPU does accelerate look for other processes there.
        no_accelerator = not torch.accelerator.is_available()
        self._accelerator: Any = Accelerator(cpu=no_accelerator, mixed_precision="no", kwargs_handlers=[wrapping])
        expected = int(os.environ.get("WORLD_SIZE", 1))
        if self.world != expected:
            raise UserError(
                f"the launcher started {expected} processes (WORLD_SIZE) but this one sees {self.world}: "
                f"start with torchrun or accelerate launch, which also set RANK, LOCAL_RANK and MASTER_ADDR."
            )
        self._bf16 = precision == "bf16"

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
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        value: bool = self._accelerator.is_main_process
        return value

    def wrap(self, module: nn.Module) -> Any:
        """Move `module` to the device and, with several processes, average its gradients over them."""
        return self._accelerator.prepare_model(module)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context to run forward passes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gradients(self, wrapped: Any, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Context of one backward pass; processes exchange gradients in the `last` one of a step alone."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(wrapped)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate the scalar `loss`."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
        """Gradient norm over all `parameters` (a scalar, on the device); above `limit` gradients are scaled to it."""
        return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, the same on all."""
        summed: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return summed

    def total(self, values: list[int]) -> list[int]:
        """Sum of each of a few integers over processes."""
        if self.world == 1:
            return values
        return [int(value) for value in self.sum(torch.tensor(values, device=self.device)).tolist()]

    def gather(self, value: Any) -> list[Any]:
        """A picklable object of every process, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the group of processes."""
        self._accelerator.end_training()
