"""A run's checkpoints: everything needed to go on as if nothing had happened.

    RUN/checkpoints/step-00000500/
        __0_0.distcp, .metadata   tensors, as `torch.distributed.checkpoint` shards them: trained parameters (what is
                                  frozen is in the model the run started from), AdamW's moments, sums since the last
                                  report, random states; one file for each process
        progress.json             {"step": 500, "tokens": …, "data": where the data stand}
        sha256.json               a hash of each file above, compared on loading

Tensors are copied, then written in the background while training goes on. The folder is written under another name and
renamed when all of it is on the disk, so one that exists is complete. A checkpoint of any number of processes can be
read by any other number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from liquid_mm.errors import UserError
from liquid_mm.files import disk_errors, read_json, write_json
from liquid_mm.train.engine import Engine
from liquid_mm.vocab.base import file_sha256

PROGRESS, HASHES = "progress.json", "sha256.json"


@dataclasses.dataclass
class Progress:
    """How far a run has come; JSON-serialisable.

    Args:
        step: optimiser steps taken, skipped ones included.
        tokens: tokens read, padding not counted.
        data: state of the data iterator.
        mean_loss: running mean of the steps' losses, for the detection of jumps.
        world: number of processes that wrote the checkpoint.
        tensor, context: how many of them computed each layer, and each row, together.
    """

    step: int = 0
    tokens: int = 0
    data: Any = None
    mean_loss: float | None = None
    world: int = 1
    tensor: int = 1
    context: int = 1


class Checkpointer:
    """Writes checkpoints below one folder, one at a time.

    Args:
        root: where they lie.
        engine: all its processes write together.
        keep: how many of the latest stay.
    """

    def __init__(self, root: Path, engine: Engine, keep: int) -> None:
        self.root, self.engine, self.keep = root, engine, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Start writing a checkpoint; what `tensors` hold now is what it will hold.

        Raises:
            UserError: the disk is full (this checkpoint does not fit, or the one before could not be written).
        """
        self.wait()
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        self._check_space(tensors)
        copies = {name: _copy(tensor) for name, tensor in tensors.items()}
        engine = self.engine
        progress = dataclasses.replace(progress, world=engine.world, tensor=engine.tensor, context=engine.context)
        self._writing = self._thread.submit(self._write, progress, copies)

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk.

        Raises:
            UserError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        error = writing.exception()
        others = self.engine.gather(None if error is None else str(error))
        if error is not None:
            raise error
        for message in filter(None, others):
            raise UserError(f"another process could not write its part of a checkpoint: {message}")

    def check(self) -> None:
        """Raise what went wrong in the background so far; several processes learn it at the next checkpoint."""
        if self.engine.world == 1 and self._writing is not None and self._writing.done():
            self.wait()

    def close(self) -> None:
        """Let the last checkpoint be finished."""
        self._thread.shutdown()

    def verify(self, folder: Path) -> None:
        """Compare a checkpoint's files with the hashes noted when they were written.

        Raises:
            UserError: it is damaged.
        """
        damaged = [name for names in self.engine.gather(self._damaged(folder)) for name in names]
        if damaged:
            raise unreadable(folder, f"{', '.join(damaged)} changed since it was written")

    def load(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Fill `tensors` in place from a checkpoint, whatever number of processes wrote it.

        Raises:
            UserError: it is of another model.
        """
        try:
            with _single_process_is_meant():
                dcp.load(tensors, checkpoint_id=folder, process_group=self.engine.background)
        except CheckpointException as error:
            cause = _cause(error)
            if isinstance(cause, OSError):
                raise unreadable(folder, str(cause)) from error
            # The files are what was written: it is this run that asks for something else.
            raise UserError(
                f"checkpoint {folder} is whole, but not one of this run ({cause}): resume with the model and settings "
                f"it was written with."
            ) from error

    def names(self, folder: Path) -> set[str]:
        """Names of the tensors in a checkpoint."""
        return set(dcp.FileSystemReader(folder).read_metadata().state_dict_metadata)

    def _damaged(self, folder: Path) -> list[str]:
        """Files whose hash is not the one noted, looked at by this process; all share the work."""
        hashes = read_json(folder / HASHES)
        names = sorted(hashes)[self.engine.rank :: self.engine.world]
        return [name for name in names if not (folder / name).is_file() or file_sha256(folder / name) != hashes[name]]

    def _check_space(self, tensors: Mapping[str, Tensor]) -> None:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())  # of all processes
        free = shutil.disk_usage(self.root).free
        (short,) = self.engine.total([free < needed])
        if short:
            raise UserError(
                f"the disk is full: a checkpoint in {self.root} takes {needed / 2**30:.2f} GiB and {free / 2**30:.2f} "
                f"GiB are free. Earlier checkpoints are intact: free some space, then resume."
            )

    def _write(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        folder = self.root / f"step-{progress.step:08d}"
        part = self.root / f".{folder.name}.part"
        try:
            with disk_errors(folder):
                if self.engine.is_main:
                    shutil.rmtree(part, ignore_errors=True)
                try:
                    with _single_process_is_meant():
                        writer = dcp.FileSystemWriter(part)
                        dcp.save(tensors, storage_writer=writer, process_group=self.engine.background)
                except CheckpointException as error:
                    raise _cause(error) from error
                # `dcp.save` returns on the first process when all have written.
                if self.engine.is_main:
                    write_json(part / PROGRESS, dataclasses.asdict(progress))
                    hashes = {path.name: file_sha256(path) for path in sorted(part.iterdir())}
                    write_json(part / HASHES, hashes)
                    if folder.exists():  # saved at this step before, then resumed from it
                        shutil.rmtree(folder)
                    part.rename(folder)
                    prune(self.root, self.keep)
        finally:
            if self.engine.is_main:
                shutil.rmtree(part, ignore_errors=True)


def read_progress(folder: Path) -> Progress:
    """How far the run had come when the checkpoint in `folder` was written."""
    try:
        return Progress(**read_json(folder / PROGRESS))
    except TypeError as error:
        raise unreadable(folder, str(error)) from error


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below `root`, oldest first."""
    return sorted(path for path in root.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def prune(root: Path, keep: int) -> None:
    """Remove all but the latest `keep` checkpoints, and what a killed run left half-written."""
    for path in [*checkpoints(root)[:-keep], *root.glob(".*.part")]:
        shutil.rmtree(path)


def unreadable(folder: Path, why: str) -> UserError:
    """The error of a checkpoint that cannot be resumed from."""
    return UserError(f"checkpoint {folder} cannot be read ({why}): remove it to resume from the one before.")


def random_state() -> list[Tensor]:
    """This process's random generators: the CPU's, then each GPU's."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def set_random_state(state: Iterable[Tensor]) -> None:
    """Undo every draw since `random_state`."""
    cpu, *devices = state
    torch.set_rng_state(cpu)
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices)


def _copy(tensor: Tensor) -> Tensor:
    """A copy in the CPU's memory, spread over the processes as `tensor` is."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.device.type == "cpu" else tensor.to("cpu")


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong in the first of the processes where something did."""
    first: BaseException = next(iter(error.failures.values()))[0]
    return first


@contextlib.contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """Keep torch from saying at each checkpoint that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
