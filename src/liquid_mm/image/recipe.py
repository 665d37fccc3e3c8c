"""A recipe for training an image tokenizer: every setting, and the network they describe."""

from __future__ import annotations

import math
from typing import Any, Literal

from diffusers import VQModel
from pydantic import Field, model_validator

from liquid_mm.config import Config


class ImageTokenizerConfig(Config):
    """A recipe for `liquid train-tokenizer`.

    Args:
        train, validation: folders, image files or JSONL lists; no validation takes `validation_share` of `train`.
        resolution: side in pixels of the square training pictures.
        stem: squares of that many pixels a side are folded into channels before the first level. A stem of 4 does
            without the levels of full and half resolution, where a processor spends most of its time.
        channels: width of each level, fine to coarse; every level but the last halves the picture.
        layers: residual blocks per level.
        groups: groups of the normalisation; must divide every width.
        levels: a fixed grid as codebook, with so many values along each dimension (`image.quantize`); empty learns one.
        num_codes, code_dim: size of a learnt codebook and length of its vectors.
        steps, batch_size: optimiser steps, and pictures in each.
        lr, warmup, beta2: Adam's peak rate (cosine to zero), share of steps it takes to rise, second-moment decay.
        start: a tokenizer folder whose weights to begin with instead of random ones; the codebook starts anew.
        decoder_only: keep encoder and codebook of `start`, so that pictures keep their codes and tokenised data and
            models stay good; the decoder alone learns on, on those codes. The network and `flat_patches` must be those
            of `start`.
        autoencoder: share of the steps trained without quantising, before a learnt codebook is made from what the
            encoder tells apart by then.
        codebook_decay: memory of a learnt codebook's moving average; revive_below: a code vector whose average use per
            batch falls under this is replaced.
        mse_weight: of the squared error beside L1, for pictures in [-1, 1].
        perceptual_from: share of the steps after which the perceptual loss joins; it is half the cost of a step.
        adversarial_from: share of the steps after which the discriminator joins.
        flat_patches: a patch of one colour gets one code whatever surrounds it (`image.vqgan.VQGAN`).
        save_dtype: precision of the weights written; the model is rounded to it before codes are ever made.
        every: steps between validations; a checkpoint for `--resume` is written at the same time.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    validation_share: float = Field(0.02, gt=0, lt=1)
    resolution: int = 64
    stem: int = Field(1, ge=1)
    channels: tuple[int, ...] = (32, 64, 96, 160)
    layers: int = Field(1, ge=1)
    groups: int = 16
    levels: tuple[int, ...] = ()
    num_codes: int = Field(1024, ge=2, le=65536)
    code_dim: int = Field(8, ge=1)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(4e-4, gt=0)
    warmup: float = Field(0.02, ge=0, lt=1)
    beta2: float = 0.99
    start: str | None = None
    decoder_only: bool = False
    autoencoder: float = Field(0.0, ge=0, lt=1)
    commitment_weight: float = 0.25
    codebook_decay: float = 0.98
    revive_below: float = 0.5
    mse_weight: float = Field(0.0, ge=0)
    perceptual_weight: float = Field(0.0, ge=0)
    perceptual_from: float = Field(0.0, ge=0, lt=1)
    perceptual_blocks: int = Field(3, ge=1, le=5)
    adversarial_weight: float = Field(0.0, ge=0)
    adversarial_from: float = Field(0.5, ge=0, lt=1)
    flip: bool = False
    flat_patches: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"
    save_dtype: Literal["float32", "float16"] = "float32"
    every: int = Field(500, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> ImageTokenizerConfig:
        bad = [width for width in self.channels if width % self.groups]
        if bad:
            raise ValueError(f"channels {bad} are not multiples of groups={self.groups}.")
        if any(count < 2 for count in self.levels):
            raise ValueError(f"levels {list(self.levels)} must be 2 or more each.")
        if self.decoder_only and (self.start is None or self.autoencoder):
            raise ValueError("decoder_only needs `start`, the tokenizer whose decoder learns on, and no `autoencoder`.")
        step = self.stem * 2 ** (len(self.channels) - 1)
        if self.resolution % step:
            raise ValueError(f"resolution {self.resolution} is not a multiple of the downsampling {step}.")
        return self

    def model(self) -> Any:
        """The untrained network."""
        depth, pixels = len(self.channels), 3 * self.stem**2
        return VQModel(
            in_channels=pixels,
            out_channels=pixels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            latent_channels=self.channels[-1],
            norm_num_groups=self.groups,
            num_vq_embeddings=math.prod(self.levels) if self.levels else self.num_codes,
            vq_embed_dim=len(self.levels) or self.code_dim,
            sample_size=self.resolution,
        )
