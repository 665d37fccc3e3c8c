import torch

from liquid_mm.generate.guidance import guide, is_guided


def test_guidance_steps_from_unconditional_past_conditional():
    conditional, unconditional = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert guide(conditional, unconditional, 3.0).tolist() == [[4.0, -2.0]]
    assert guide(conditional, unconditional, 1.0).tolist() == conditional.tolist()


def test_guidance_is_computed_in_float32():
    low = torch.tensor([[1.0]], dtype=torch.bfloat16)
    assert guide(low, low, 7.0).dtype == torch.float32


def test_scale_1_needs_no_second_row():
    assert not is_guided(1.0)
    assert is_guided(1.5)
