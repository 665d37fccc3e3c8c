"""Logits of only the ids that may come next.

A step needs the head's rows of one contiguous range: the 8192 codes inside an image, the text rows elsewhere.
Multiplying those alone spares most of the largest matrix of the model (Gemma-7B: 3 % of 264,192 rows are codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liquid_mm.errors import UserError
from liquid_mm.generate.few_rows import linear
from liquid_mm.generate.packed import PackedLinear, can_pack
from liquid_mm.head import LogitRule, gives_own_logits


class Head:
    """The output head of a Hugging Face causal LM, computed on ranges of its rows.

    Args:
        llm: the model; its backbone is `llm.base_model`.
        probe: any id, for the one forward pass that checks this head against the model's own.
        pack: ranges of rows to lay out as `generate.packed` does, where that is possible; copies of those rows.

    Raises:
        UserError: the family changes its logits in a way that is not known here.
    """

    def __init__(self, llm: Any, probe: int, pack: Sequence[range] = ()) -> None:
        self._module = llm.get_output_embeddings()
        # A head that is quantised or wrapped by an adapter has no plain rows: it is then run whole.
        weight = self._module.weight
        self._has_rows = type(self._module) is nn.Linear and type(weight) in (Tensor, nn.Parameter)
        self._rule = LogitRule.of(llm)
        self._packed: dict[range, PackedLinear] = {}
        if self._has_rows and can_pack(weight):
            self._packed = {span: PackedLinear(*self._part(span), result=torch.float32) for span in pack}
        with torch.inference_mode():
            ids = torch.tensor([probe], device=llm.device)
            size = llm.get_input_embeddings().weight.shape[0]
            if not gives_own_logits(llm, lambda hidden: self(hidden, range(size)), ids):
                raise UserError(
                    f"the family {llm.config.model_type!r} changes its logits after the head in an unknown way: "
                    "generation with it is not supported."
                )

    def __call__(self, hidden: Tensor, span: range) -> Tensor:
        """Logits (B, len(span)) of the ids in `span` from final hidden states (B, D).

        In float32 where our own kernels run: bfloat16 has so few numbers that many logits come out equal.
        """
        if span in self._packed:
            products = self._packed[span](hidden)
        elif self._has_rows:
            products = linear(hidden, *self._part(span))
        else:
            products = self._module(hidden)[:, span.start : span.stop]
        return self._rule(products)

    def _part(self, span: range) -> tuple[Tensor, Tensor | None]:
        rows = slice(span.start, span.stop)
        bias = self._module.bias
        return self._module.weight[rows], None if bias is None else bias[rows]
