"""Next-token loss fused with the output head: no (tokens × vocabulary) float32 tensor ever exists.

The last hidden states are projected a few rows at a time; loss, gradients, accuracy and logsumexp are taken from those
rows' logits before the next ones are made. Only positions that predict something are projected at all.

    hidden (N, D) ── chunk of n rows ──► logits (n, V) ──► loss, top id, logsumexp (kept: three numbers a row)
                                             └──────────► d hidden (n, D), d weight (V, D) += …

`torch.nn.functional.linear_cross_entropy` (chunked if given `options`) has the same idea, but a loss per position costs
it a second projection in backward, and top id, z-loss and soft-capping are not in it; like Liger's kernel, which needs
Triton besides, it takes the gradient of the whole weight or of none, while here the new rows alone may learn. Both are
measured beside this in `benchmarks/training.py`; the tests take the former as a second opinion, `reference_loss` as the
obvious one.

Legend: N predicted positions, D hidden size, V vocabulary, R trained rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liquid_mm.errors import UserError
from liquid_mm.head import LogitRule, gives_own_logits

CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Logits held at once: on a GPU 256 MiB in float32, 254 rows of Gemma's 264192 entries."""


PLAIN = LogitRule()


@dataclasses.dataclass(frozen=True)
class Head:
    """How a model turns hidden states into logits: `rule(h Wᵀ + b)`."""

    weight: Tensor
    bias: Tensor | None = None
    rule: LogitRule = PLAIN

    @classmethod
    def of(cls, llm: nn.Module) -> Head:
        """The head of a Hugging Face causal LM."""
        linear: Any = llm.get_output_embeddings()  # type: ignore[operator]
        return cls(linear.weight, getattr(linear, "bias", None), LogitRule.of(llm))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) in float32 of `hidden` (…, D), without fusing."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return self.rule(F.linear(hidden, self.weight.to(hidden.dtype), bias).float())


@torch.no_grad()
def check_head(llm: Any) -> None:
    """Make sure that `Head` describes what this family does.

    Raises:
        UserError: it does something else to its logits, so that the fused loss would train another model.
    """
    if not gives_own_logits(llm, Head.of(llm).logits, torch.arange(4, device=llm.device)):
        raise UserError(
            f"models of type {llm.config.model_type!r} change their logits after the output layer in a way the fused "
            f"loss does not know; supported: an output bias, `logit_scale`, `logits_scaling` and "
            f"`final_logit_softcapping`."
        )


def backbone(llm: nn.Module) -> Any:
    """The part of a causal LM that ends in the last hidden state."""
    return getattr(llm, llm.base_model_prefix)  # type: ignore[call-overload]


class TokenStats(NamedTuple):
    """What N predicted positions gave, each (N,): cross-entropy, the likeliest id (int64), logsumexp of the logits."""

    loss: Tensor
    top: Tensor
    logsumexp: Tensor


def fused_loss(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    z_loss: float = 0.0,
    rows: Tensor | None = None,
    row_ids: Tensor | None = None,
    chunk_elements: int | None = None,
) -> tuple[Tensor, TokenStats]:
    """Summed loss of N positions, and what each gave.

    Args:
        hidden: (N, D) last hidden states, each of the position before its target.
        head: the output head; its weight and bias receive gradients if they require them.
        targets: (N,) int64 ids to predict (already shifted).
        weights: (N,) float32, how much each position counts in the sum; None: all 1. Statistics are without them.
        z_loss: adds `z_loss · logsumexp²` per position.
        rows: (R, D) master copy of rows of a frozen `head.weight`, which holds their rounded values; receives theirs.
        row_ids: (R,) int64, the ids of `rows`.
        chunk_elements: bound on logits held at once; None: by device.

    Returns:
        The differentiable sum over positions, and detached `TokenStats`.
    """
    chunk_elements = chunk_elements or CHUNK_ELEMENTS.get(hidden.device.type, 1 << 24)
    total, loss, top, logsumexp = _FusedLoss.apply(
        hidden, head.weight, head.bias, rows, row_ids, targets, weights, head.rule, z_loss, chunk_elements
    )
    return total, TokenStats(loss, top, logsumexp)


def reference_loss(
    hidden: Tensor, head: Head, targets: Tensor, *, weights: Tensor | None = None, z_loss: float = 0.0
) -> tuple[Tensor, TokenStats]:
    """The same as `fused_loss` with every logit in memory: slow and obvious, for tests."""
    logits = head.logits(hidden)
    loss = F.cross_entropy(logits, targets, reduction="none")
    logsumexp = logits.logsumexp(-1)
    stats = TokenStats(loss.detach(), logits.argmax(-1), logsumexp.detach())
    each = loss + z_loss * logsumexp**2
    return (each if weights is None else each * weights).sum(), stats


class _FusedLoss(torch.autograd.Function):
    """Gradients are made in forward, while the logits exist, and only scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        row_ids: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        rule: LogitRule,
        z_loss: float,
        chunk_elements: int,
    ) -> tuple[Tensor, ...]:
        count, device = len(hidden), hidden.device
        # Under autocast the weight is stored in float32 while products are made in the autocast type.
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else hidden.dtype
        matrix = weight.to(dtype)
        wants = dict(zip(("hidden", "weight", "bias", "rows"), ctx.needs_input_grad, strict=False))
        d_hidden = torch.empty_like(hidden) if wants["hidden"] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants["weight"] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants["bias"] else None
        d_rows = torch.zeros_like(rows, dtype=torch.float32) if rows is not None and wants["rows"] else None
        loss, logsumexp = torch.empty(count, device=device), torch.empty(count, device=device)
        top = torch.empty(count, dtype=torch.int64, device=device)

        softcap = rule.softcap
        step = max(1, chunk_elements // len(weight))
        with torch.autocast(device.type, enabled=False):
            for start in range(0, count, step):
                part = slice(start, start + step)
                h, target = hidden[part].to(dtype), targets[part, None]
                logits = F.linear(h, matrix, None if bias is None else bias.to(dtype)).float()
                if rule.scale != 1:
                    logits.mul_(rule.scale)
                if softcap is not None:
                    logits = logits.div_(softcap).tanh_().mul_(softcap)
                highest, top[part] = logits.max(-1)
                picked = logits.gather(1, target)[:, 0]
                slope = None if softcap is None else 1 - (logits / softcap).square_()
                exp = logits.sub_(highest[:, None]).exp_()
                norm = exp.sum(-1)
                lse = norm.log() + highest
                loss[part], logsumexp[part] = lse - picked, lse
                if not any(wants.values()):
                    continue
                # d(loss + z·lse²)/d logits = softmax·(1 + 2·z·lse) − onehot
                d_logits = exp.mul_(((1 + 2 * z_loss * lse) / norm)[:, None])
                d_logits.scatter_add_(1, target, torch.full_like(picked, -1.0)[:, None])
                if weights is not None:
                    d_logits.mul_(weights[part, None])
                if slope is not None:
                    d_logits.mul_(slope)
                if rule.scale != 1:
                    d_logits.mul_(rule.scale)
                d = d_logits.to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = d @ matrix
                if d_weight is not None:
                    d_weight += d.T @ h
                if d_rows is not None:
                    assert row_ids is not None
                    d_rows += d.index_select(1, row_ids).T @ h
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
        each = loss + z_loss * logsumexp.square() if z_loss else loss
        total = each.sum() if weights is None else torch.dot(each, weights)
        made = ((d_hidden, hidden), (d_weight, weight), (d_bias, bias), (d_rows, rows))
        ctx.gradients = [None if d is None or of is None else d.to(of.dtype) for d, of in made]
        ctx.mark_non_differentiable(loss, top, logsumexp)
        return total, loss, top, logsumexp

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # In place: a second (V, D) float32 tensor is what this function exists to avoid. So backward runs once.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the fused loss cannot be differentiated twice"
        return *(None if d is None else d.mul_(grads[0].to(d.dtype)) for d in gradients), *[None] * 6
