"""Linear layers for generation on the CPU: weights laid out once the way the processor's matrix kernels read them.

A step of a few rows is bound by reading weights. PyTorch's own `linear` reads them row by row and reaches half of what
the memory gives; oneDNN reads blocks, and laying the weights out in blocks costs a second at loading rather than time
at each step. The numbers stay the same up to the order of summation.

    pack(llm)           every plain linear layer but the output head, in place
    PackedLinear        one of them; the head packs the rows it needs (`generate.head`)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 2
"""Rows the layout is made for: a guided picture. Measured on other numbers it is as good."""


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN takes such a weight: on the CPU, float32, or bfloat16 where the processor computes in it."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    bfloat16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(bfloat16 or weight.dtype == torch.float32)


class PackedLinear(nn.Module):
    """`x Wᵀ + b` for x of the weight's type, without gradients.

    Args:
        weight: (out, in); see `can_pack`.
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        # Not a buffer: a tensor of another layout cannot be saved, moved or counted like one.
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)

    @property
    def weight(self) -> Tensor:
        """The weight as it was, unpacked into a new tensor."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


def pack(llm: Any) -> None:
    """Pack the plain linear layers of a Hugging Face causal LM in place; it then no longer trains, moves or casts.

    The output head stays: it shares its weight with the embedding where they are tied, and is used row by row.
    """
    head = llm.get_output_embeddings()
    for module in list(llm.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head and can_pack(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))


def is_packed(llm: Any) -> bool:
    """Whether `pack` has found layers to pack in this model."""
    return any(isinstance(module, PackedLinear) for module in llm.modules())
