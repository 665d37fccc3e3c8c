"""A whole tiny model: a random LM of any family with a random VQGAN of 16 codes, 8 pixels to a code, 32x32 images."""

from __future__ import annotations

import torch
from diffusers import VQModel

from liquid_mm.checkpoint import Checkpoint
from liquid_mm.image.vqgan import VQGAN
from tiny import tiny_liquid


def tiny_vqgan(num_codes: int = 16, seed: int = 0) -> VQGAN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            latent_channels=4,
            sample_size=32,
            num_vq_embeddings=num_codes,
            vq_embed_dim=4,
            mid_block_add_attention=False,
        )
    return VQGAN(model)


def tiny_checkpoint(family: str = "smollm", **options) -> Checkpoint:
    return Checkpoint(*tiny_liquid(family, **options), tiny_vqgan())
