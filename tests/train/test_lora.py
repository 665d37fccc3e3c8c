"""The fused LoRA layer against PEFT's own."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from liquid_mm.train import lora


def layers(**options):
    """A bare model of two linear layers with LoRA, B drawn so that it does something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
    model.requires_grad_(False)
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], **options))
    for name, parameter in wrapped.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter)
    return wrapped


def gradients(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return y.detach(), x.grad, found


def test_output_and_gradients_are_those_of_peft():
    model, x = layers(), torch.randn(2, 4, 6)
    y, to_x, expected = gradients(model, x)
    lora.fuse(model)
    fused, fused_to_x, found = gradients(model, x)
    torch.testing.assert_close(fused, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused_to_x, to_x, rtol=1e-4, atol=1e-4)
    assert len(found) == 4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.merge_and_unload()(x), y, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_adapters_stay_float32():
    model, x = layers(), torch.randn(4, 6)
    _, _, expected = gradients(model, x)
    lora.fuse(model)
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        _, _, found = gradients(model, x)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.99


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_layers_that_do_more_are_left_to_peft(options):
    model = layers(**options)
    before = [module.forward for module in model.modules()]
    lora.fuse(model)
    assert [module.forward for module in model.modules()] == before
