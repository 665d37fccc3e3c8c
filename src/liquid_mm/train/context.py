"""Rows that several processes compute together, a stretch of tokens each (DeepSpeed-Ulysses: arXiv 2309.14509).

    tokens 0..511 | 512..1023       every layer but attention: each process its own stretch, all heads
       heads 0..3 | 4..7            attention: each process all tokens, its own heads

Attention is the only place where tokens meet. Before it the processes trade stretches for heads, after it heads for
stretches, so that it sees whole documents, as in one process; activations, the larger part of a long row's memory, are
shared out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single
from torch.distributed.device_mesh import DeviceMesh

from liquid_mm.errors import UserError
from liquid_mm.train.probe import Probe

INSTEAD = "leave context_parallel out, and use `shard` and activation_checkpointing."


@dataclasses.dataclass(frozen=True)
class Context:
    """Processes that hold a stretch of each row; `mesh` has them in the order of their stretches."""

    mesh: DeviceMesh

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

    def repeats(self, shared: int) -> int:
        """How often each of `shared` heads of keys and values is repeated, so that every process has as many."""
        return math.lcm(shared, self.mesh.size()) // shared

    def _trade(self, sent: Tensor) -> Tensor:
        """Each process's part k of `sent` (n, …) goes to process k; what comes back is by sender."""
        return all_to_all_single(sent.contiguous(), None, None, self.mesh.get_group())


def check_heads(llm: Any, parts: int, tensor: int = 1) -> None:
    """Make sure that the attention heads of a Hugging Face causal LM can be shared out.

    Args:
        llm: the model; its weights are not looked at.
        parts: processes a row.
        tensor: processes that share out the heads of each layer already.

    Raises:
        UserError: they cannot, or attention is not of the kind that can.
    """
    config = llm.config.get_text_config()
    if (kind := llm.config._attn_implementation) != "sdpa":
        raise UserError(
            f"context_parallel: transformers runs models of type {config.model_type!r} with {kind!r} attention only, "
            f"which cannot be shared out: {INSTEAD}"
        )
    if config.num_attention_heads % (parts * tensor):
        names = f"context_parallel {parts}" + (f" x tensor_parallel {tensor}" if tensor > 1 else "")
        raise UserError(f"{names} does not divide the {config.num_attention_heads} attention heads of this model.")


def check_layers(llm: Any, found: Probe) -> None:
    """Make sure that a stretch of a row can be computed apart, but for attention.

    Raises:
        UserError: it cannot.
    """
    config = llm.config.get_text_config()
    if found.attention == config.num_hidden_layers and found.hands_down and found.windows_told and found.apart:
        return
    raise UserError(
        f"context_parallel: models of type {config.model_type!r} let tokens meet elsewhere than in attention, or in a "
        f"way that depends on the length of the row or is not told to it: {INSTEAD}"
    )
