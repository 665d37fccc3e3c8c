"""Logits of only the ids that may come next.

A step needs the head's rows of one contiguous range: the 8192 codes inside an image, the text rows elsewhere.
Multiplying those alone spares most of the largest matrix of the model (Gemma-7B: 3 % of 264,192 rows are codes).

What a family does to its logits after the head (Gemma 2's soft cap, Cohere's and Granite's scale) is applied here too,
and checked once against the model's own logits, so that an unknown family is refused rather than sampled wrongly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liquid_mm.errors import UserError


class Head:
    """The output head of a Hugging Face causal LM, computed on ranges of its rows.

    Args:
        llm: the model; its backbone is `llm.base_model`.
        probe: any id, for the one forward pass that checks this head against the model's own.

    Raises:
        UserError: the family changes its logits in a way that is not known here.
    """

    def __init__(self, llm: Any, probe: int) -> None:
        config = llm.config.get_text_config()
        self._module = llm.get_output_embeddings()
        # A head that is quantised or wrapped by an adapter has no plain rows: it is then run whole.
        self._has_rows = type(self._module) is nn.Linear and self._module.weight.is_floating_point()
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = getattr(config, "logit_scale", None) or 1.0
        self._divisor = getattr(config, "logits_scaling", None) or 1.0
        self._check(llm, probe)

    def __call__(self, hidden: Tensor, span: range) -> Tensor:
        """Logits (B, len(span)) of the ids in `span` from final hidden states (B, D)."""
        rows = slice(span.start, span.stop)
        if self._has_rows:
            bias = self._module.bias
            logits = functional.linear(hidden, self._module.weight[rows], None if bias is None else bias[rows])
        else:
            logits = self._module(hidden)[:, rows]
        logits = logits * self._scale / self._divisor if self._scale != self._divisor else logits
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @torch.inference_mode()
    def _check(self, llm: Any, probe: int) -> None:
        ids = torch.tensor([[probe]], device=llm.device)
        hidden = llm.base_model(ids, use_cache=False).last_hidden_state[:, -1]
        expected = llm(ids, use_cache=False).logits[:, -1].float()
        actual = self(hidden, range(expected.shape[-1])).float()
        if (actual - expected).abs().max() > 0.02 * expected.abs().max():
            raise UserError(
                f"the family {llm.config.model_type!r} changes its logits after the head in an unknown way: "
                "generation with it is not supported."
            )
