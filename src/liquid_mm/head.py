"""From the output layer's products to logits: what families do there, known in one place.

    logits = softcap · tanh(scale · (h Wᵀ + b) / softcap)      Gemma 2 and 3 may cap; Cohere multiplies, Granite divides

Training's fused loss and generation's partial head both compute logits themselves instead of asking the model. Each
checks itself once against the model's own logits, so that an unknown family is refused rather than computed wrongly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LogitRule:
    """What a family does after its output layer: multiply by `scale`, then squash into ±`softcap`; None is no cap."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, llm: Any) -> LogitRule:
        """The rule of a Hugging Face causal LM, from its configuration."""
        config = llm.config.get_text_config()
        factor = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return cls(factor / divisor, getattr(config, "final_logit_softcapping", None))

    def __call__(self, products: Tensor) -> Tensor:
        """Logits of any shape from the output layer's products `h Wᵀ + b`."""
        logits = products if self.scale == 1.0 else products * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


@torch.no_grad()
def gives_own_logits(llm: Any, logits_of: Callable[[Tensor], Tensor], ids: Tensor) -> bool:
    """Whether `logits_of`, from last hidden states (T, D) to logits (T, V), gives the model's own logits of `ids` (T,).

    Up to what half precision makes of them.
    """
    expected = llm(input_ids=ids[None], use_cache=False).logits[0].float()
    actual = logits_of(llm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]).float()
    return bool((actual - expected).abs().max() <= 0.02 * expected.abs().max())
