"""How much arithmetic training is, and how much of it devices can do: the two sides of MFU.

A weight of a matrix takes 2 FLOPs per token forward, 2 for the gradient of its input and, if trained, 2 for its own;
a pair of a query and a key it sees takes 4 in each head dimension of each layer, three times that with the backward
pass. Only what the model needs counts: a second forward pass for activation checkpointing does not (PaLM, arXiv
2204.02311, appendix B).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from liquid_mm.train.adapt import Learner


class Gpu(NamedTuple):
    """Memory in GiB, and dense bfloat16 FLOP/s."""

    memory: float
    flops: float


GPUS = {
    "A100-40GB": Gpu(40, 312e12),
    "A100": Gpu(80, 312e12),
    "H100": Gpu(80, 989e12),
    "H200": Gpu(141, 989e12),
    "B200": Gpu(180, 2250e12),
    "L40S": Gpu(48, 362e12),
    "A10": Gpu(24, 125e12),
}
"""From NVIDIA's data sheets, SXM form where there are several; looked up by the first name a device's name holds."""


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of `device` if it is a known one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace(" ", "-")
    return next((gpu.flops for key, gpu in GPUS.items() if key in name), None)


class Cost(NamedTuple):
    """FLOPs of a training step: for each token read, for each target, for each visible (query, key) pair."""

    token: float
    target: float
    pair: float

    @classmethod
    def of(cls, learner: Learner) -> Cost:
        """What `learner` takes; ask before its parameters are shared out."""
        blocks = learner.blocks()
        matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
        head = learner.llm.get_output_embeddings().weight
        target = _per_use(head) + sum(2 * rows.numel() for rows in learner.new_rows()[-1:])
        return cls(sum(map(_per_use, matrices)), target, 12 * len(blocks) * attention_width(learner.llm.config))

    def step(self, tokens: float, targets: float, pairs: float) -> float:
        """FLOPs of a step with so many of each."""
        return self.token * tokens + self.target * targets + self.pair * pairs


def attention_width(config: Any) -> int:
    """Heads times their size."""
    config = config.get_text_config()
    heads: int = config.num_attention_heads
    size: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * size


def _per_use(parameter: torch.nn.Parameter) -> int:
    return parameter.numel() * (6 if parameter.requires_grad else 4)
