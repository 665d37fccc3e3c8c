"""The device side of generation: rows of different lengths through the model, with a key/value cache.

    rows, left-padded      _ _ 5 6 7        mask       0 0 1 1 1       positions  0 0 0 1 2
                           1 2 3 4 7                   1 1 1 1 1                  0 1 2 3 4

Padding is masked and positions count from the first real id, so a row gets what it would get alone. The cache classes
are transformers' own, chosen from the model's configuration, so that sliding-window layers keep only their window.

Verbs: construct (prefill), `decode_one`, `keep`. `hidden` always holds the final hidden state after each row's last id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class Batch:
    """Rows that advance together.

    Args:
        llm: Hugging Face causal LM.
        rows: ids of each row, of any lengths.
        pad: id to pad with.
    """

    def __init__(self, llm: Any, rows: Sequence[Sequence[int]], pad: int) -> None:
        self._llm = llm
        self._cache = DynamicCache(config=llm.config)
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=llm.device)
        lengths = torch.tensor([len(row) for row in rows], device=llm.device)
        columns = torch.arange(longest, device=llm.device)
        self._mask = (columns >= longest - lengths[:, None]).long()
        self.hidden = self._forward(ids, (self._mask.cumsum(-1) - 1).clamp(min=0))
        self._lengths = lengths

    def decode_one(self, tokens: Sequence[int]) -> None:
        """Append one id to every row."""
        ids = torch.tensor(tokens, device=self._llm.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self.hidden = self._forward(ids, self._lengths[:, None])
        self._lengths = self._lengths + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        index = torch.tensor(rows, device=self._llm.device)
        self._cache.batch_select_indices(index)
        self._mask, self._lengths, self.hidden = self._mask[index], self._lengths[index], self.hidden[index]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        hidden: Tensor = self._llm.base_model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, -1]
