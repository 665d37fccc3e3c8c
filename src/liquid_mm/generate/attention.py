"""Attention on the CPU by native/attention.c: a token gives the same whatever tokens, rows and columns are beside it.

`transformers` calls it by the name `NAME` in every layer of a model that is packed (`use`). PyTorch's own attention
sums in an order that depends on the columns the longest row reads; in bfloat16 that shows: a picture differed with the
requests that shared the batch with it. It is also slower, for it works on what is masked.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from liquid_mm.generate.native import library

NAME = "liquid_cpu"
"""Of this attention, among those that transformers knows."""

CHUNK, MOST = 32, 256
"""A head has a multiple of so many elements, and no more than this."""

TYPES = (torch.float32, torch.bfloat16)


def use(llm: Any) -> None:
    """Let a Hugging Face model on the CPU attend by this module, if it is one that would by PyTorch's attention."""
    if llm.device.type == "cpu" and llm.config.get_text_config()._attn_implementation == "sdpa":
        llm.set_attn_implementation(NAME)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q Kᵀ · scale) V of what each token sees.

    Args:
        q: (R, heads, T, dim).
        keys, values: (R, groups, columns, dim), where `heads` is a multiple of `groups`; of q's type.
        mask: (R, 1, T, columns), bool, or broadcasting to it: whether it is seen; what is seen lies together.
        scale: of scores.

    Returns:
        (R, T, heads, dim).
    """
    if can_attend(q, keys, values, mask):
        together = q.contiguous(), keys, values, mask.expand(q.shape[0], 1, q.shape[2], keys.shape[2]).contiguous()
        y: Tensor = torch.ops.liquid.attend(*together, scale, torch.get_num_threads())
        return y
    rows, heads, tokens, width = q.shape
    if tokens > 1:
        keys, values = (t.repeat_interleave(heads // keys.shape[1], 1) for t in (keys, values))
        seen = functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
        return seen.transpose(1, 2).contiguous()
    # Heads that share keys and values are taken for tokens of one head: copying keys and values for each of them would
    # be most of attention's time.
    alike = q.reshape(rows, keys.shape[1], -1, width)
    seen = functional.scaled_dot_product_attention(alike, keys, values, attn_mask=mask, scale=scale)
    return seen.reshape(rows, 1, heads, -1)


def can_attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> bool:
    """Whether our own code takes such tensors on this machine."""
    alike = q.dtype in TYPES and keys.dtype == values.dtype == q.dtype and mask.dtype == torch.bool
    width = q.shape[-1]
    shapes = keys.stride()[2:] == values.stride()[2:] == (width, 1)
    fits = width % CHUNK == 0 and width <= MOST and mask.shape[1] == 1
    return alike and shapes and fits and q.device.type == "cpu" and library() is not None


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it; what is not asked by generation, or more than it asks, goes PyTorch's way."""
    asked = [name for name in ("position_bias", "softcap", "cache", "s_aux") if more.get(name) is not None]
    if attention_mask is None or attention_mask.dtype != torch.bool or asked or dropout:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, attention_mask, scale), None


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, threads: int) -> Tensor:
    found = library()
    assert found is not None
    rows, heads, tokens, width = q.shape
    y = q.new_empty(rows, tokens, heads, width)
    strides = (ctypes.c_int64 * 4)(*keys.stride()[:2], *values.stride()[:2])
    failed = found.attend(
        *(tensor.data_ptr() for tensor in (q, keys, values, mask, y)),
        *(rows, heads, keys.shape[1], tokens, keys.shape[2], width, strides),
        *(scale, q.dtype == torch.bfloat16, threads),
    )
    if failed:
        raise MemoryError(f"no memory for the scores of {keys.shape[2]} columns")
    return y


def _shape(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, threads: int) -> Tensor:
    rows, heads, tokens, width = q.shape
    return q.new_empty(rows, tokens, heads, width)


_library = torch.library.Library("liquid", "FRAGMENT")
_library.define("attend(Tensor q, Tensor keys, Tensor values, Tensor mask, float scale, int threads) -> Tensor")
_library.impl("attend", _attend, "CPU")
torch.library.register_fake("liquid::attend", _shape, lib=_library)
transformers.AttentionInterface.register(NAME, _forward)
transformers.AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
