"""The fixed grid: rounding is the nearest vector of its table, and gradients pass."""

import math

import pytest
import torch
from diffusers import VQModel

from liquid_mm.image.quantize import FiniteScalarQuantizer, spread_latents


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 2), (3,), (4, 7, 2)])
def test_rounding_finds_the_nearest_vector_of_the_table(levels):
    quantizer = FiniteScalarQuantizer(levels)
    assert quantizer.codebook.shape == (math.prod(levels), len(levels))
    assert len(quantizer.codebook.unique(dim=0)) == math.prod(levels)
    latents = 3 * torch.randn(4, len(levels), 5, 6, generator=torch.Generator().manual_seed(0))
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, len(levels))
    nearest = quantizer.codebook[torch.cdist(vectors, quantizer.codebook).argmin(dim=1)]
    rounded, _ = quantizer(latents)
    assert torch.allclose(rounded.permute(0, 2, 3, 1).reshape(-1, len(levels)), nearest, atol=1e-6)


def test_gradients_pass_straight_through_and_commitment_pulls_to_the_grid():
    latents = torch.tensor([0.4, 9.0]).view(1, 2, 1, 1).requires_grad_()
    rounded, commitment = FiniteScalarQuantizer((3, 3), commitment_weight=0.5)(latents)
    assert rounded.flatten().tolist() == [0.0, 1.0]
    assert commitment.item() == pytest.approx(0.5 * (0.4**2 + 8.0**2) / 2)
    rounded.sum().backward()
    assert latents.grad.flatten().tolist() == [1.0, 1.0]


def test_spreading_scales_latents_and_leaves_the_decoder_what_it_had():
    torch.manual_seed(0)
    model = VQModel(block_out_channels=(32,), latent_channels=8, vq_embed_dim=4, num_vq_embeddings=8).eval()
    pixels = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = model.encode(pixels).latents
        decoded = model.decode(before, force_not_quantize=True).sample
        spread_latents(model, 3.0)
        after = model.encode(pixels).latents
        assert torch.allclose(after, 3 * before, atol=1e-5)
        assert torch.allclose(model.decode(after, force_not_quantize=True).sample, decoded, atol=1e-5)
