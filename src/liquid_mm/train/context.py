"""Rows that several processes compute together, a stretch of tokens each (DeepSpeed-Ulysses: arXiv 2309.14509).

    tokens 0..511 | 512..1023       every layer but attention: each process its own stretch, all heads
       heads 0..3 | 4..7            attention: each process all tokens, its own heads

Attention is the only place where tokens meet. Before it the processes trade stretches for heads, after it heads for
stretches, so that it sees whole rows and documents, as in one process; activations, the larger part of a long row's
memory, are shared out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single
from torch.distributed.device_mesh import DeviceMesh

from liquid_mm.errors import UserError


@dataclasses.dataclass
class Context:
    """One batch of whole rows, for the attention of processes that hold a stretch of each.

    Args:
        mesh: the processes, in the order of their stretches.
        positions: (B, T) int64, of the whole rows; they restart with every document.

    Attributes:
        used: how many attention layers have asked since it was last set.
    """

    mesh: DeviceMesh
    positions: Tensor
    used: int = 0
    _masks: dict[int | None, Tensor] = dataclasses.field(default_factory=dict)

    def heads(self, states: Tensor) -> Tensor:
        """This process's heads of all tokens (B, H/n, T, D), from all heads of its own tokens (B, H, T/n, D)."""
        rows, heads, length, size = states.shape
        parts = self.mesh.size()
        # (n, H/n, B, t, D): what goes to each process lies together.
        sent = states.reshape(rows, parts, heads // parts, length, size).permute(1, 2, 0, 3, 4)
        got = self._trade(sent).permute(2, 1, 0, 3, 4)  # (B, H/n, n, t, D)
        return got.reshape(rows, heads // parts, parts * length, size)

    def stretch(self, states: Tensor) -> Tensor:
        """The way back: this process's tokens (B, T/n, H, D), from its heads of all tokens (B, T, H/n, D)."""
        rows, length, heads, size = states.shape
        parts = self.mesh.size()
        sent = states.reshape(rows, parts, length // parts, heads, size).permute(1, 0, 2, 3, 4)
        got = self._trade(sent).permute(1, 2, 0, 3, 4)  # (B, t, n, H/n, D)
        return got.reshape(rows, length // parts, parts * heads, size)

    def mask(self, window: int | None) -> Tensor:
        """Who sees whom (B, 1, T, T): earlier tokens of the same document, at most `window` with oneself."""
        if window not in self._masks:
            place = torch.arange(self.positions.shape[1], device=self.positions.device)
            first = place - self.positions  # of the document
            distance = place[:, None] - place
            near = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
            self._masks[window] = (near & (first[:, :, None] == first[:, None, :]))[:, None]
        return self._masks[window]

    def _trade(self, sent: Tensor) -> Tensor:
        """Each process's part k of `sent` (n, …) goes to process k; what comes back is by sender."""
        return all_to_all_single(sent.contiguous(), None, None, self.mesh.get_group())


def repeats(heads: int, shared: int, parts: int) -> int:
    """How often each of `shared` key and value heads must be repeated for `parts` processes to share them out.

    Raises:
        UserError: the `heads` of the queries cannot be shared out so.
    """
    times = parts // math.gcd(shared, parts)
    if heads % (shared * times):
        raise UserError(
            f"context_parallel {parts}: {heads} attention heads with {shared} of keys and values cannot be shared out "
            "evenly."
        )
    return times


def check(llm: Any, parts: int, tensor: int = 1) -> None:
    """Make sure that processes can share the rows of a Hugging Face causal LM.

    Args:
        llm: the model.
        parts: processes a row.
        tensor: processes that share out the heads of each layer already.

    Raises:
        UserError: they cannot.
    """
    config = llm.config.get_text_config()
    if (kind := llm.config._attn_implementation) != "sdpa":
        raise UserError(
            f"context_parallel: models of type {config.model_type!r} run with {kind!r} attention, which cannot be "
            "shared out; only 'sdpa' can."
        )
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    repeats(heads // tensor, shared // tensor, parts)
