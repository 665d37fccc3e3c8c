"""A codebook that need not be learnt: finite scalar quantisation (Mentzer et al., arXiv 2309.15505).

    levels (8, 5, 5, 5):  each of the four numbers of a latent is rounded to one of 8, 5, 5 or 5 values; 1000 codes

Written as a table the grid is an ordinary codebook, and rounding is finding its nearest vector, so a tokenizer trained
this way is a plain VQGAN afterwards. The paper squashes latents by tanh before rounding; here they are only clipped,
for after tanh the nearest vector in the table would be another one.

Every cell has the same size, so patches that look alike share a code. A learnt codebook puts its vectors where latents
are dense and splits the commonest patch of all, the blank one, into hundreds of codes that mean the same (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiniteScalarQuantizer(nn.Module):
    """Rounds latents to a grid; gradients pass straight through.

    Args:
        levels: values along each dimension of a latent, one unit apart and centred on zero.
        commitment_weight: of the mean squared distance between latents and grid, the second of the two results.
    """

    codebook: Tensor

    def __init__(self, levels: tuple[int, ...], commitment_weight: float = 0.1) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        axes = [torch.arange(count) - (count - 1) / 2 for count in levels]
        # A single axis comes back without its second dimension.
        self.register_buffer("codebook", torch.cartesian_prod(*axes).view(-1, len(levels)).float(), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, D, H, W) to grid points of the same shape, and the weighted commitment loss, a scalar."""
        with torch.no_grad():
            limit = self.codebook[-1].view(1, -1, 1, 1)
            # Grid points are limit, limit - 1, …: half-odd numbers where a dimension has an even count of levels.
            rounded = (torch.round(latents - limit) + limit).clamp(-limit, limit)
        commitment = self.commitment_weight * (latents - rounded).square().mean()
        return latents + (rounded - latents).detach(), commitment


def spread_latents(model: nn.Module, factor: float) -> None:
    """Scale a fresh VQModel's latents by `factor`, undone before the decoder, so that they reach more of the grid."""
    with torch.no_grad():
        for module, scale in ((model.quant_conv, factor), (model.post_quant_conv, 1 / factor)):
            assert isinstance(module, nn.Conv2d)
            module.weight.mul_(scale)
            if scale > 1 and module.bias is not None:
                module.bias.mul_(scale)
