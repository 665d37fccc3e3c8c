"""A packed batch as tensors: what is read, and what is to be predicted from where.

ids       <bos> a cat <eos> | <bos> a dog          two documents in one row
targets         a cat <eos>         a dog          each predicted at the position before it, never across the bar
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from liquid_mm.train.attention import Documents
from liquid_mm.train.context import Context


class Batches(Protocol):
    """An endless iterator of batches (`liquid_mm.data.mixture.Batch`) that can tell and take its place."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """A JSON-serialisable value, the same on every process."""

    def set_state(self, state: Any) -> None:
        """Go to where `get_state` was called."""


class Inputs(NamedTuple):
    """A batch as tensors: ids and positions (B, T); of N targets the flat index before them, their id and modality.

    With a `context` the rest is of this process's stretch of the rows, T being its length, but for `documents`, which
    are of whole rows.
    """

    ids: Tensor
    positions: Tensor
    where: Tensor
    targets: Tensor
    modality: Tensor
    documents: Documents
    context: Context | None = None


def to_inputs(batch: Any, device: torch.device, mesh: DeviceMesh | None = None) -> Inputs:
    """Shift the targets of a packed batch: id t is predicted at t-1, never across documents.

    Args:
        batch: as the mixture gives it.
        device: where to.
        mesh: processes that compute its rows together; then only this one's stretch of them.
    """
    mask = batch["loss_mask"].copy()
    mask[:, 0] = False
    mask[:, 1:] &= batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    at = np.flatnonzero(mask)
    documents = Documents.of(batch["segment_ids"], device)
    kinds = batch["modality"].reshape(-1)[at].astype(np.int64)
    arrays = (batch["ids"], batch["positions"], at - 1, batch["ids"].reshape(-1)[at], kinds)
    # Waiting for each copy: these arrays are gone on return, and their memory is not pinned.
    ids, positions, where, targets, modality = (torch.from_numpy(a).to(device) for a in arrays)
    whole = Inputs(ids, positions, where, targets, modality, documents)
    return whole if mesh is None else _stretch(whole, mesh)


def _stretch(inputs: Inputs, mesh: DeviceMesh) -> Inputs:
    """This process's stretch of every row, and what is predicted there."""
    length = inputs.ids.shape[1]
    part, number = length // mesh.size(), mesh.get_local_rank()
    here = slice(number * part, (number + 1) * part)
    row, place = inputs.where // length, inputs.where % length
    mine = place // part == number
    return Inputs(
        inputs.ids[:, here],
        inputs.positions[:, here],
        (row * part + place % part)[mine],
        inputs.targets[mine],
        inputs.modality[mine],
        inputs.documents,
        Context(mesh),
    )


def sizes(batch: Any) -> tuple[int, int]:
    """Tokens of a batch, and pairs of a token and one it sees, itself included."""
    real = batch["segment_ids"] != 0
    return int(np.count_nonzero(real)), int((batch["positions"][real] + 1).sum())
