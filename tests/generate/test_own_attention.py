"""Our attention: what it gives, that nothing beside a token changes it, and where it is not used."""

import pytest
import torch
from torch.nn import functional

from liquid_mm.generate import attention
from liquid_mm.generate.native import library

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 8e-3}

needs_library = pytest.mark.skipif(library() is None, reason="no AVX-512, or no gcc")


def example(rows, heads, groups, tokens, columns, width, dtype):
    """Tokens at random places of rows of random lengths, some of which see a window only."""
    torch.manual_seed(rows + heads + tokens + columns)
    q = torch.randn(rows, tokens, heads, width).to(dtype).transpose(1, 2)
    keys, values = (torch.randn(rows + 1, groups, columns + 64, width).to(dtype) for _ in range(2))
    positions = torch.randint(0, columns, (rows, 1, tokens, 1))
    column = torch.arange(columns)
    mask = (column <= positions) & (column > positions - torch.randint(1, columns + 1, (rows, 1, 1, 1)))
    return q, keys[:rows, :, :columns], values[:rows, :, :columns], mask


def exactly(q, keys, values, mask, scale):
    keys, values = (t.double().repeat_interleave(q.shape[1] // keys.shape[1], 1) for t in (keys, values))
    seen = functional.scaled_dot_product_attention(q.double(), keys, values, attn_mask=mask, scale=scale)
    return seen.transpose(1, 2)


@pytest.mark.parametrize("own", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    "shape", [(2, 9, 3, 1, 128, 64), (3, 4, 1, 1, 33, 256), (2, 2, 2, 7, 200, 32), (1, 4, 2, 40, 40, 96)]
)
def test_it_is_attention(shape, dtype, own, monkeypatch):
    tensors = example(*shape, dtype)
    assert attention.can_attend(*tensors) == (library() is not None)
    if not own:
        monkeypatch.setattr(attention, "library", lambda: None)
    exact = exactly(*tensors, 0.17)
    found = attention.attend(*tensors, 0.17)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert (found.double() - exact).abs().max() <= ROUNDING[dtype] * exact.abs().max()


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_token_gives_the_same_whatever_is_beside_it(dtype, monkeypatch):
    q, keys, values, mask = example(3, 6, 2, 5, 640, 64, dtype)
    together = attention.attend(q, keys, values, mask, 0.125)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)  # so many that heads do not share keys any more
    for row in range(3):
        for token in range(5):
            end = int(mask[row, 0, token].nonzero().max()) + 1
            at, some = slice(row, row + 1), slice(token, token + 1)
            part = q[at, :, some], keys[at, :, :end], values[at, :, :end], mask[at, :, some, :end]
            torch.testing.assert_close(attention.attend(*part, 0.125), together[at, some], rtol=0, atol=0)


@needs_library
def test_a_mask_for_all_rows_and_a_token_that_sees_nothing():
    q, keys, values, mask = example(2, 4, 2, 3, 100, 64, torch.float32)
    alike = mask[:1]
    found = attention.attend(q, keys, values, alike, 0.2)
    torch.testing.assert_close(found, attention.attend(q, keys, values, alike.repeat(2, 1, 1, 1), 0.2), rtol=0, atol=0)
    alike[:, :, 1] = False
    blind = attention.attend(q, keys, values, alike, 0.2)
    assert not blind[:, 1].any()
    torch.testing.assert_close(blind[:, ::2], found[:, ::2], rtol=0, atol=0)


@needs_library
def test_scores_far_apart_are_weighed_rightly():
    q, keys, values, mask = example(2, 4, 2, 3, 100, 64, torch.float32)
    exact = exactly(q, keys, values, mask, 40.0)
    assert (attention.attend(q, keys, values, mask, 40.0).double() - exact).abs().max() <= 1e-4 * exact.abs().max()


@needs_library
@pytest.mark.parametrize("change", ["width", "type", "mask"])
def test_what_it_does_not_take_goes_another_way(change):
    q, keys, values, mask = example(2, 4, 2, 1, 64, 40 if change == "width" else 64, torch.float32)
    if change == "type":
        q, keys, values = q.double(), keys.double(), values.double()
    if change == "mask":
        mask = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    assert not attention.can_attend(q, keys, values, mask)
    found = attention.attend(q, keys, values, mask, 0.2)
    assert (
        found.double() - exactly(q, keys, values, mask.double() if change == "mask" else mask, 0.2)
    ).abs().max() < 1e-5
