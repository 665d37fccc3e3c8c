"""Tensors that may be spread over processes: FSDP2 keeps a parameter as a `DTensor`, some rows on each.

    table (10, D) on 4 processes:   rows 0-2 | 3-5 | 6-8 | 9
    held(table)                     (1, D), 9   on the last

With one process, or whole copies on each, both functions have nothing to do.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`; where it is spread, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> tuple[Tensor, int]:
    """The rows of a table that this process holds, sharing its memory, and the number of the first.

    Not for layers that several processes compute together: their rows on one process are not all neighbours.
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0
    (dim,) = (number for number, placement in enumerate(tensor.placements) if placement.is_shard(0))
    size = -(-len(tensor) // tensor.device_mesh.size(dim))  # FSDP cuts as `torch.chunk` does
    return tensor.to_local(), tensor.device_mesh.get_local_rank(dim) * size
