"""Packed linear layers: the same numbers, the same weights, every family."""

import pytest
import torch
from torch import nn

from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.packed import PackedLinear, PackedPart, can_pack, pack
from tiny import FAMILIES
from tiny_checkpoint import tiny_checkpoint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_plain_one(dtype, bias):
    plain = nn.Linear(48, 80, bias=bias, dtype=dtype)
    packed = PackedLinear(plain.weight, plain.bias)
    for shape in ((1, 48), (2, 1, 48), (7, 48), (3, 5, 48)):
        x = torch.randn(*shape, dtype=dtype)
        with torch.inference_mode():
            torch.testing.assert_close(packed(x), plain(x), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    assert torch.equal(packed.weight, plain.weight)
    assert packed.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in packed.state_dict().items())


def test_what_cannot_be_packed_stays():
    assert not can_pack(nn.Linear(4, 4, dtype=torch.float16).weight)
    assert not can_pack(torch.empty(4, 4, device="meta"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_model_draws_the_same(family):
    plain, packed = tiny_checkpoint(family), tiny_checkpoint(family)
    linear = sum(type(module) is nn.Linear for module in plain.llm.modules())
    pack(packed.llm)
    of_layers = (PackedLinear, PackedPart)
    assert sum(type(module) in of_layers for module in packed.llm.modules()) == linear - 1  # all but the head
    assert any(type(module) is PackedPart for module in packed.llm.modules()) == (family not in ("phi3", "gpt2"))
    written, expected = packed.llm.state_dict(), plain.llm.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in written.items())
    ask = {"prompts": ["a red apple", "two cats"], "guidance_scale": 3.0, "top_k": 1, "seed": 0}
    first, second = (LiquidModel(checkpoint).generate_images(**ask) for checkpoint in (plain, packed))
    for one, two in zip(first, second, strict=True):
        assert one.codes.tolist() == two.codes.tolist()
