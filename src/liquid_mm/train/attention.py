"""Attention inside the documents of packed rows, on the CPU: documents of like length side by side.

    rows of 512:  [ pair 85 | pair 90 | text 200 | pair 88 | padding ] …
    groups:       (3 documents, 90)   (1 document, 200)                   scores: 3·90² + 200², not 512²

The block mask that transformers builds from restarting positions is right everywhere, but a CPU then computes all 512²
scores, and its bfloat16 flash kernel is slow to differentiate: attention takes half a step when documents are short,
grouped a tenth. This is an attention function of transformers' own kind, chosen by name: layers of families that hand
keyword arguments down get the documents and leave the mask aside; all others, and every other use of the model, run
SDPA with the mask.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from liquid_mm.train.context import Context, repeats

NAME = "sdpa_documents"

JOIN = 0.75
"""A document joins a group if it is at least this share of the longest one in it; the rest of its place is padding."""

SMALL = 1024
"""Up to this length bfloat16 scores are made with plain products, which are faster there than the flash kernel."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """Where the documents of a packed batch lie, its B rows of T tokens laid end to end.

    Args:
        groups: of each group of n documents of up to L tokens the indices (n, L) of their tokens; where a document is
            shorter, of any.
        back: (B·T,) for each token its index in all groups flattened and laid end to end; for padding, any.
    """

    groups: list[Tensor]
    back: Tensor

    @classmethod
    def of(cls, segment_ids: NDArray[np.int64]) -> Documents:
        """The documents of `segment_ids` (B, T): runs of one number within a row, 0 being padding."""
        starts = np.ones(segment_ids.shape, bool)
        starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
        first = np.flatnonzero(starts)
        length = np.diff(first, append=starts.size)
        real = segment_ids.reshape(-1)[first] != 0
        first, length = first[real], length[real]
        order = np.argsort(-length, kind="stable")
        groups, back, made, at = [], np.zeros(starts.size, np.int64), 0, 0
        while at < len(order):
            longest = length[order[at]]
            members = order[at:][length[order[at:]] >= JOIN * longest]
            inside = np.arange(longest) < length[members, None]
            index = np.where(inside, first[members, None] + np.arange(longest), 0)
            back[index[inside]] = made + np.flatnonzero(inside)
            groups.append(torch.from_numpy(index))
            made, at = made + index.size, at + len(members)
        return cls(groups, torch.from_numpy(back))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents | None = None,
    context: Context | None = None,
    sliding_window: int | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document.

    Args:
        module: the layer asking.
        query: (B, H, T, D).
        key, value: (B, K, T, D), with H a multiple of K.
        attention_mask: used if `documents` is None.
        documents: where documents lie.
        context: where T is a stretch of rows that several processes compute: the whole rows; `documents` are of these.
        sliding_window: how many positions back a query sees, itself included; None: all.
        scaling: of the scores; None: D^-½.
        dropout: share of attention weights dropped.
        options: of SDPA.

    Returns:
        (B, T, H, D), and no attention weights.
    """
    if context is not None:
        return _shared(query, key, value, documents, context, sliding_window, scaling, dropout), None
    if documents is not None:
        return _grouped(query, key, value, documents, sliding_window, scaling, dropout), None
    options |= {"sliding_window": sliding_window, "scaling": scaling, "dropout": dropout}
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output


def _shared(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents | None,
    context: Context,
    sliding_window: int | None,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Attention of this process's heads over whole rows, with and without their documents; shapes as of `attend`."""
    context.used += 1
    times = repeats(query.shape[1], key.shape[1], context.mesh.size())
    key, value = (states.repeat_interleave(times, 1) for states in (key, value))
    query, key, value = (context.heads(states) for states in (query, key, value))
    if documents is not None:
        return context.stretch(_grouped(query, key, value, documents, sliding_window, scaling, dropout))
    # One key for each query: with a mask, the kernels that share them keep all scores.
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
    mask = context.mask(sliding_window)
    output = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    return context.stretch(output.transpose(1, 2))


def _grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    sliding_window: int | None,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Attention document by document; shapes as of `attend`."""
    rows, heads, length, size = query.shape
    if not documents.groups:  # nothing but padding, as in a process's part of the last batch of a validation
        return query.new_zeros(rows, length, heads, size)
    flat = [tensor.transpose(1, 2).flatten(0, 1).flatten(1) for tensor in (query, key, value)]  # (B·T, heads·D)
    parts = []
    for index in documents.groups:
        # (n, L, heads, D) -> (n, heads, L, D)
        q, k, v = (t.index_select(0, index.flatten()).view(*index.shape, -1, size).transpose(1, 2) for t in flat)
        visible = torch.ones(index.shape[1], index.shape[1], dtype=torch.bool, device=index.device).tril_()
        if sliding_window is not None:
            visible.triu_(1 - sliding_window)
        if query.dtype == torch.bfloat16 and index.shape[1] <= SMALL:
            part = _plain(q, k, v, visible, scaling or size**-0.5, dropout)
        else:
            part = F.scaled_dot_product_attention(
                q, k, v, visible, dropout_p=dropout, scale=scaling, enable_gqa=heads != k.shape[1]
            )
        parts.append(part.transpose(1, 2).reshape(-1, heads * size))
    together = torch.cat(parts).index_select(0, documents.back)
    return together.view(rows, length, heads, size)


def _plain(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float, dropout: float) -> Tensor:
    """Attention by its definition; the heads that share a key are one product. Shapes (n, H|K, L, D), mask (L, L)."""
    n, heads, length, size = query.shape
    shared = key.shape[1]
    q = (query * scaling).reshape(n, shared, -1, size)
    scores = (q @ key.transpose(2, 3)).view(n, shared, -1, length, length)
    weights = F.dropout(scores.masked_fill(~visible, float("-inf")).softmax(-1), dropout)
    return (weights.view(n, shared, -1, length) @ value).view(n, heads, length, size)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
