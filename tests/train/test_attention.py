from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from liquid_mm.train.attention import SMALL, Documents, attend

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 0, 0], [1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 0]])


def heads(dtype, rows=2, length=12, seed=0):
    torch.manual_seed(seed)
    shapes = ((rows, 4, length, 8), (rows, 2, length, 8), (rows, 2, length, 8))
    # As in a model: (B, T, heads, D) seen as (B, heads, T, D).
    return [torch.randn(b, t, h, d, dtype=dtype).transpose(1, 2).requires_grad_() for b, h, t, d in shapes]


def reference(query, key, value, segments, window, scaling):
    """SDPA over the whole row with a block mask, in float32."""
    segments = torch.from_numpy(segments)
    at = torch.arange(segments.shape[1])
    back = at[:, None] - at
    visible = (segments[:, :, None] == segments[:, None]) & (back >= 0) & (back < (window or 1 << 30))
    return F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), visible[:, None], scale=scaling, enable_gqa=True
    ).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_documents_attend_as_under_a_block_mask(dtype, window, scaling):
    inputs = heads(dtype)
    real = torch.from_numpy(SEGMENTS > 0)
    ours, weights = attend(
        None, *inputs, None, documents=Documents.of(SEGMENTS), sliding_window=window, scaling=scaling
    )
    theirs = reference(*inputs, SEGMENTS, window, scaling)
    assert weights is None
    assert ours.dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
    torch.testing.assert_close(ours[real].float(), theirs[real], **tolerance)
    slope = torch.randn_like(theirs[real])
    gradients = torch.autograd.grad(ours[real].float(), inputs, slope)
    expected = torch.autograd.grad(theirs[real], inputs, slope)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_documents_of_like_length_share_a_group():
    documents = Documents.of(SEGMENTS)
    assert [tuple(group.shape) for group in documents.groups] == [(2, 8), (1, 3), (1, 2), (1, 1)]
    tokens = torch.cat([group.flatten() for group in documents.groups])
    real = np.flatnonzero(SEGMENTS)
    assert tokens[documents.back][real].tolist() == real.tolist()


def test_only_padding_and_one_long_document():
    (group,) = Documents.of(np.array([[1] * 5, [0] * 5])).groups
    assert group.tolist() == [[0, 1, 2, 3, 4]]
    segments = np.ones((1, SMALL + 1), np.int64)
    inputs = heads(torch.bfloat16, 1, SMALL + 1)
    ours, _ = attend(None, *inputs, None, documents=Documents.of(segments))
    torch.testing.assert_close(ours.float(), reference(*inputs, segments, None, None), rtol=3e-2, atol=3e-2)


def test_a_part_that_is_all_padding_has_nothing_to_attend_to():
    segments = np.zeros((2, 12), np.int64)
    ours, _ = attend(None, *heads(torch.float32), None, documents=Documents.of(segments))
    assert (tuple(ours.shape), bool(ours.any())) == ((2, 12, 4, 8), False)
