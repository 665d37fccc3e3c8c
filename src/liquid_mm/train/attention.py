"""Attention inside the documents of packed rows: documents of like length side by side.

    rows of 512:  [ pair 85 | pair 90 | text 200 | pair 88 | padding ] …
    groups:       (3 documents, 90)   (1 document, 200)                   scores: 3·90² + 200², not 512²

The block mask that transformers builds from restarting positions is right everywhere, but then all 512² scores are
computed and, for the backward pass, a mask of that size kept by every layer; on a CPU attention so takes half a step
when documents are short, grouped a tenth. This is an attention function of transformers' own kind, chosen by name:
layers that hand keyword arguments down get the documents and leave the mask aside; all others, and every other use of
the model, run SDPA with the mask.
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

from liquid_mm.train.context import Context

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
    def of(cls, segment_ids: NDArray[np.int64], device: torch.device | str = "cpu") -> Documents:
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
            groups.append(torch.from_numpy(index).to(device))
            made, at = made + index.size, at + len(members)
        return cls(groups, torch.from_numpy(back).to(device))


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
        context: the processes that compute these rows, where T is a stretch of them; `documents` are of whole rows.
        sliding_window: how many positions back a query sees, itself included; None: all.
        scaling: of the scores; None: D^-½.
        dropout: share of attention weights dropped.
        options: of SDPA.

    Returns:
        (B, T, H, D), and no attention weights.
    """
    if documents is None:
        assert context is None, "processes that share rows have their documents"
        options |= {"sliding_window": sliding_window, "scaling": scaling, "dropout": dropout}
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output
    if context is None:
        return _grouped(query, key, value, documents, sliding_window, scaling, dropout), None
    times = context.repeats(key.shape[1])
    key, value = (states.repeat_interleave(times, 1) for states in (key, value))
    query, key, value = (context.heads(states) for states in (query, key, value))
    return context.stretch(_grouped(query, key, value, documents, sliding_window, scaling, dropout)), None


def _grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Attention group by group of whole rows; shapes as of `attend`."""
    rows, heads, length, size = query.shape
    if not documents.groups:  # nothing but padding, as in a process's part of the last batch of a validation
        return query.new_zeros(rows, length, heads, size)
    flat = [tensor.transpose(1, 2).flatten(0, 1).flatten(1) for tensor in (query, key, value)]  # (B·T, heads·D)
    parts = []
    for index in documents.groups:
        # (n, L, heads, D) -> (n, heads, L, D)
        q, k, v = (t.index_select(0, index.flatten()).view(*index.shape, -1, size).transpose(1, 2) for t in flat)
        part = _causal(q, k, v, window, scaling, dropout)
        parts.append(part.transpose(1, 2).reshape(-1, heads * size))
    together = torch.cat(parts).index_select(0, documents.back)
    return together.view(rows, length, heads, size)


def _causal(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, scaling: float | None, dropout: float
) -> Tensor:
    """Causal attention in each of n documents: query (n, H, L, D), key and value (n, K, L, D) to (n, H, L, D)."""
    length, size = query.shape[2:]
    if window is not None and window < length:
        return _windowed(query, key, value, window, scaling, dropout)
    if _is_small(query):
        visible = torch.ones(length, length, dtype=torch.bool, device=query.device).tril_()
        return _plain(query, key, value, visible, scaling or size**-0.5, dropout)
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=shared
    )


def _windowed(query: Tensor, key: Tensor, value: Tensor, window: int, scaling: float | None, dropout: float) -> Tensor:
    """As `_causal`, of documents cut into blocks as long as the window: a block sees itself and the one before it."""
    number, heads, length, size = query.shape
    query, key, value = (F.pad(states, (0, 0, 0, -length % window)) for states in (query, key, value))
    q, own_k, own_v = (states.unflatten(2, (-1, window)).transpose(1, 2) for states in (query, key, value))
    blocks = q.shape[1]
    # (n, blocks, K, 2·window, D)
    k, v = (torch.cat([F.pad(own, (0, 0, 0, 0, 0, 0, 1, -1)), own], 3) for own in (own_k, own_v))
    q, k, v = (states.flatten(0, 1) for states in (q, k, v))
    place = torch.arange(2 * window, device=q.device)
    distance = place[window:, None] - place
    visible = ((distance >= 0) & (distance < window)).repeat(blocks, 1, 1)
    visible[0, :, :window] = False  # before the first block there is none
    visible = visible[:, None].repeat(number, 1, 1, 1)
    if _is_small(q):
        out = _plain(q, k, v, visible[:, None], scaling or size**-0.5, dropout)
    else:
        if q.device.type != "cpu":  # with a mask, GPUs' kernels that share keys keep all scores
            k, v = (states.repeat_interleave(heads // states.shape[1], 1) for states in (k, v))
        shared = heads != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, visible, dropout_p=dropout, scale=scaling, enable_gqa=shared)
    joined: Tensor = out.unflatten(0, (number, blocks)).transpose(1, 2).flatten(2, 3)
    return joined[:, :, :length]


def _is_small(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= SMALL


def _plain(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float, dropout: float) -> Tensor:
    """Attention by its definition; the heads that share a key are one product.

    Shapes (n, H, L, D) and (n, K, M, D), mask (L, M) or (n, 1, 1, L, M).
    """
    n, heads, length, size = query.shape
    shared = key.shape[1]
    q = (query * scaling).reshape(n, shared, -1, size)
    scores = (q @ key.transpose(2, 3)).view(n, shared, -1, length, key.shape[2])
    weights = F.dropout(scores.masked_fill(~visible, float("-inf")).softmax(-1), dropout)
    return (weights.view(n, shared, -1, key.shape[2]) @ value).view(n, heads, length, size)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
