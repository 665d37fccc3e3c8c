"""From logits to one chosen id, as pure functions; `sample` chains them in the order the released model uses.

    logits  [2.0, 1.0, 0.0, -1.0]            ids 0…3
    temperature 0.5   -> [4.0, 2.0, 0.0, -2.0]
    top-k 3           -> values [4.0, 2.0, 0.0] of ids [0, 1, 2], most likely first
    softmax, top-p .9 -> [0.867, 0.117, 0]   the smallest set that holds 90 %
    draw with 0.95    -> id 1                0.95 · (0.867 + 0.117) falls in the second of them

Candidates stay sorted from the second step on, so choosing is one comparison with a running sum and needs exactly one
random number per id. Only their values are sorted; which id was drawn is looked up in the end, by its value. Where
top-k keeps all, not all are sorted: nearly always the likeliest thousand hold what top-p keeps, or the drawn id, and
the sum over all gives their probabilities. The random number comes from the request's own generator on the CPU: what a
seed draws depends neither on the device nor on what shares the batch.

Shapes: B rows, V ids to choose from, K candidates kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from liquid_mm.generate.sampling_config import SamplingConfig

CANDIDATES = 1024
"""Without top-k so many ids are sorted first, and eight times as many whenever the draw falls behind them."""


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits below the highest of their row, divided by the temperature, in float32.

    However small or large the temperature is, there are no overflows: the likeliest stays at 0.
    """
    logits = logits.float()
    return (logits - logits.amax(-1, keepdim=True)) / min(max(temperature, 1e-37), 1e37)


def top_k(logits: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """The `k` largest of (B, V) logits, most likely first: values (B, K) and their indices (B, K).

    Equal ones stand in the order of their indices. `torch.topk` leaves them in one that changes with K, and bfloat16
    has so few numbers that they are frequent: what a seed draws would depend on how many candidates others need.
    """
    size = logits.shape[-1]
    values, indices = torch.topk(logits, size if k is None else min(k, size), dim=-1, sorted=True)
    if bool(((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any()):
        indices = indices.sort(-1).values
        values, order = logits.gather(-1, indices).sort(dim=-1, descending=True, stable=True)
        indices = indices.gather(-1, order)
    return values, indices


def largest(logits: Tensor, count: int) -> Tensor:
    """The values alone of `top_k`: float32 (B, V) to (B, count).

    On a CPU NumPy's sort without indices takes a tenth of the time of PyTorch's, which has them.
    """
    if logits.device.type != "cpu":
        return torch.topk(logits, count, dim=-1, sorted=True).values
    values, behind = logits.numpy(), logits.shape[-1] - count
    if behind:
        values = np.partition(values, behind, axis=-1)[:, behind:]
    return torch.from_numpy(np.sort(values, axis=-1)[:, ::-1].copy())


def index_of(logits: Tensor, values: Tensor, rank: Tensor) -> Tensor:
    """Where in (B, V) logits the `rank`-th (B,) of their largest `values` (B, K) stands: (B,).

    Equal ones stand in the order of their indices.
    """
    value = values.gather(-1, rank[:, None])
    among = rank[:, None] - (values > value).sum(-1, keepdim=True)
    return ((logits == value).cumsum(-1) > among).int().argmax(-1)


def top_p(probabilities: Tensor, p: float) -> Tensor:
    """Sorted probabilities (B, K) with zeros after the smallest leading set that holds at least `p`."""
    before = probabilities.cumsum(-1) - probabilities
    return probabilities.masked_fill(before >= max(p, 1e-37), 0.0)  # above 0 in float32 too: the first always stays


def draw(weights: Tensor, uniform: Tensor, total: Tensor | None = None) -> Tensor:
    """Which candidate `uniform` (B,), in [0, 1), falls on among sorted weights (B, K): indices (B,).

    `total` (B,) is what the weights sum to where not all of them are given; the draw must fall on one that is.
    """
    running = weights.cumsum(-1)
    total = running[:, -1] if total is None else total
    below = (running <= (uniform.to(running) * total)[:, None]).sum(-1)
    # Rounding may carry the product up to the total itself; the last candidate with any weight is meant then.
    return torch.minimum(below, (weights > 0).sum(-1) - 1)


def sample(logits: Tensor, config: SamplingConfig, uniform: Tensor) -> Tensor:
    """One index per row of (B, V) logits: temperature, top-k, top-p, draw. `uniform` is (B,), in [0, 1).

    The same as sorting everything (`reference.choose`), but only as many candidates are sorted as the draws can reach.
    """
    scaled, uniform = scale_temperature(logits, config.temperature), uniform.to(logits.device)
    size = scaled.shape[-1]
    if config.top_k is not None and config.top_k < size:
        values = largest(scaled, config.top_k)
        return index_of(scaled, values, draw(top_p(values.softmax(-1), config.top_p), uniform))
    log_total = scaled.logsumexp(-1, keepdim=True)
    # With top-p, all ids that it keeps have to be among the candidates; without, those up to the drawn one.
    needed = torch.full_like(log_total, config.top_p) if config.top_p < 1 else uniform[:, None].to(log_total)
    count = min(CANDIDATES, size)
    while True:
        values = largest(scaled, count)
        probabilities = (values - log_total).exp()
        if count == size or bool((probabilities.sum(-1, keepdim=True) > needed).all()):
            break
        count = min(8 * count, size)
    kept = top_p(probabilities, config.top_p)
    total = kept.sum(-1) if config.top_p < 1 or count == size else torch.ones_like(log_total[:, 0])
    return index_of(scaled, values, draw(kept, uniform, total))
