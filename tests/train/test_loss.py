from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainkit import FAMILIES, tiny

from liquid_mm.errors import UserError
from liquid_mm.train.loss import Head, check_head, fused_loss, reference_loss


def problem(*, bias=False, softcap=None, seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(23, 16, requires_grad=True)
    weight = nn.Parameter(torch.randn(50, 16))
    head = Head(weight, nn.Parameter(torch.randn(50)) if bias else None, softcap)
    return hidden, head, torch.randint(0, 50, (23,))


def gradients(loss, hidden, head):
    inputs = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk_elements", [1, 50 * 7, 1 << 20])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, None), (False, 2.0), (True, 2.0)])
def test_fused_equals_reference(bias, softcap, z_loss, chunk_elements):
    hidden, head, targets = problem(bias=bias, softcap=softcap)
    fused, stats = fused_loss(hidden, head, targets, z_loss=z_loss, chunk_elements=chunk_elements)
    slow, expected = reference_loss(hidden, head, targets, z_loss=z_loss)
    torch.testing.assert_close(fused, slow)
    torch.testing.assert_close(stats, expected)
    for ours, theirs in zip(gradients(fused / 23, hidden, head), gradients(slow / 23, hidden, head), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="newer torch")
def test_fused_equals_torch():
    hidden, head, targets = problem()
    fused, _ = fused_loss(hidden, head, targets)
    theirs = F.linear_cross_entropy(hidden, head.weight, targets, reduction="sum")
    torch.testing.assert_close(fused, theirs)
    torch.testing.assert_close(gradients(fused, hidden, head), gradients(theirs, hidden, head))


def test_rows_of_a_frozen_head_get_their_part_of_its_gradient():
    hidden, head, targets = problem()
    reference, _ = reference_loss(hidden, head, targets)
    _, expected = torch.autograd.grad(reference, (hidden, head.weight))
    ids = torch.tensor([3, 40, 41])
    frozen = Head(head.weight.detach(), None, None)
    rows = nn.Parameter(frozen.weight[ids])
    fused, _ = fused_loss(hidden, frozen, targets, rows=rows, row_ids=ids, chunk_elements=200)
    (gradient,) = torch.autograd.grad(fused, rows)
    torch.testing.assert_close(gradient, expected[ids])


def test_autocast_is_close_and_gradients_keep_their_type():
    hidden, head, targets = problem()
    slow, _ = reference_loss(hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        fused, stats = fused_loss(hidden, head, targets)
    assert fused.dtype == stats.loss.dtype == torch.float32
    torch.testing.assert_close(fused, slow, rtol=2e-2, atol=0)
    for ours, theirs in zip(gradients(fused, hidden, head), gradients(slow, hidden, head), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


def test_no_targets_is_no_loss():
    hidden, head, targets = problem()
    loss, stats = fused_loss(hidden[:0], head, targets[:0])
    assert loss == 0
    assert len(stats.loss) == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, hidden, head))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_every_family_is_known(family):
    check_head(tiny(family))


def test_a_head_that_does_more_is_refused():
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    config.logits_scaling = 4.0
    with pytest.raises(UserError, match="granite"):
        check_head(GraniteForCausalLM(config))
