"""A LoRA layer in four matrix products and no pass over memory besides.

    y = x Wᵀ + s · (x Aᵀ) Bᵀ        W frozen (out, in);  A (rank, in), B (out, rank) trained

PEFT writes this as two layers, a product with s and a sum; forwards and backwards that is five more passes over
activations, which on a CPU cost as much as the products. Here each sum happens inside a product (`addmm`).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class _LoraProduct(torch.autograd.Function):
    """`y` for x (N, in), all of one type; gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        inner = x @ a.T
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        y.addmm_(inner, b.T)
        ctx.save_for_backward(x, weight, a, b, inner)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, a, b, inner = ctx.saved_tensors
        to_inner = gradient @ b
        to_x = (gradient @ weight).addmm_(to_inner, a) if ctx.needs_input_grad[0] else None
        return to_x, None, None, to_inner.T @ x, gradient.T @ inner


def fuse(model: nn.Module) -> None:
    """Let PEFT's plain LoRA layers in `model` compute as above; layers with dropout or of another kind stay."""
    for module in model.modules():
        if type(module) is LoraLinear and _is_plain(module):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _is_plain(module: Any) -> bool:
    (name,) = module.active_adapters
    return (
        type(module.base_layer) is nn.Linear
        and isinstance(module.lora_dropout[name], nn.Identity)
        and not module.lora_variant.get(name)
        and not module.lora_bias[name]
    )


def _forward(self: Any, x: Tensor) -> Tensor:
    (name,) = self.active_adapters
    base = self.base_layer
    if self.merged or not torch.is_grad_enabled():
        return type(self).forward(self, x)  # type: ignore[no-any-return]
    kind = base.weight.dtype
    a, b = self.lora_A[name].weight.to(kind), self.lora_B[name].weight.to(kind) * self.scaling[name]
    flat: Tensor = _LoraProduct.apply(x.reshape(-1, x.shape[-1]).to(kind), base.weight, base.bias, a, b)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], -1)
