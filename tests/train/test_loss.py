from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainkit import FAMILIES, tiny
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, LlamaConfig

from liquid_mm.errors import UserError
from liquid_mm.head import LogitRule
from liquid_mm.train.loss import Head, check_head, fused_loss, reference_loss

PLAIN = LogitRule()


def problem(*, bias=False, rule=PLAIN, seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(23, 16, requires_grad=True)
    weight = nn.Parameter(torch.randn(50, 16))
    head = Head(weight, nn.Parameter(torch.randn(50)) if bias else None, rule)
    return hidden, head, torch.randint(0, 50, (23,))


def gradients(loss, hidden, head):
    inputs = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk_elements", [1, 50 * 7, 1 << 20])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("rule", [LogitRule(), LogitRule(softcap=2.0), LogitRule(0.3), LogitRule(0.3, 2.0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_fused_equals_reference(weighted, bias, rule, z_loss, chunk_elements):
    hidden, head, targets = problem(bias=bias, rule=rule)
    settings = {"z_loss": z_loss, "weights": torch.rand(23) * 3 if weighted else None}
    fused, stats = fused_loss(hidden, head, targets, chunk_elements=chunk_elements, **settings)
    slow, expected = reference_loss(hidden, head, targets, **settings)
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
    frozen = Head(head.weight.detach())
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


@pytest.mark.parametrize("family", [(CohereConfig, {"logit_scale": 0.1}), (GraniteConfig, {"logits_scaling": 8.0})])
def test_families_that_scale_their_logits(family):
    check_head(small(*family))


def test_a_head_that_does_more_is_refused():
    llm = small(LlamaConfig, {})
    llm.lm_head.register_forward_hook(lambda module, given, logits: logits + 1 + logits.abs())
    with pytest.raises(UserError, match="llama"):
        check_head(llm)


def small(config, settings):
    """A random model of one layer."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    return AutoModelForCausalLM.from_config(config(vocab_size=32, pad_token_id=0, **shape, **settings))
