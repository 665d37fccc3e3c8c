"""The device side of generation: some tokens of some rows through the model, against what those rows hold already.

    forward(rows=[0, 3], ids=[[5, 6, 7], [9]], starts=[0, 12])       prefill: row 0 from its beginning, row 3 from 12
    forward(rows=[0, 1, 2], ids=[[8], [4], [4]], starts=[3, 13, 7])  a step: one token for each row

A short row is padded by repeating its last token at its last position: it is computed twice and changes nothing. For
the same reason a row may be fed a token it has been fed before, as when its request waits while others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.generate.cache import SlotCache
from liquid_mm.generate.compiled import COLUMNS, Compiler
from liquid_mm.generate.graphs import StepGraphs

RECORDED = 64
"""Steps to come from which on a CUDA device records them."""

REHEARSED = COLUMNS // 2 + 8
"""Tokens of the prompt that a step is rehearsed after: so many that the step reads `COLUMNS`."""

logger = logging.getLogger(__name__)


class Masks:
    """Which columns a token sees, in the form its family takes: one mask for all layers, or one for each kind of layer.

    Raises:
        UserError: the family has layers of a kind that is not known here.
    """

    def __init__(self, llm: Any) -> None:
        self._config = llm.config.get_text_config()
        self._dtype: torch.dtype = llm.dtype
        self._window: int | None = getattr(self._config, "sliding_window", None)
        kinds = getattr(self._config, "layer_types", None)
        if unknown := set(kinds or ()) - {"full_attention", "sliding_attention"}:
            raise UserError(
                f"the family {llm.config.model_type!r} has layers of the kind {', '.join(sorted(unknown))}: generation "
                "knows full and sliding attention."
            )
        by_kind = {"full_attention": None, "sliding_attention": self._window}
        self._windows = {kind: by_kind[kind] for kind in sorted(set(kinds))} if kinds else None

    def __call__(self, positions: Tensor, columns: int) -> Tensor | dict[str, Tensor]:
        """For tokens at `positions` (R, T): masks (R, 1, T, columns)."""
        positions = positions[:, None, :, None]
        if self._windows is None:
            return self._mask(positions, columns, self._window)
        return {kind: self._mask(positions, columns, window) for kind, window in self._windows.items()}

    def _mask(self, positions: Tensor, columns: int, window: int | None) -> Tensor:
        column = torch.arange(columns, device=positions.device)
        seen = column <= positions
        if window is not None:
            seen &= column > positions - window
        if self._config._attn_implementation != "eager":
            return seen
        # Attention written out adds its mask to the scores; every other implementation takes what is seen.
        hidden = torch.finfo(self._dtype).min
        return torch.zeros_like(seen, dtype=self._dtype).masked_fill_(~seen, hidden)


class Runner:
    """Runs a Hugging Face causal LM on rows of a cache.

    Args:
        llm: the model.
        context: positions it has, or None.
    """

    def __init__(self, llm: Any, context: int | None) -> None:
        self._llm, self._context = llm, context
        self._masks = Masks(llm)
        self._compiler = Compiler(llm, self._rehearse)
        self._graphs: StepGraphs | None = None
        self._recordable = llm.device.type == "cuda"
        self.clear()

    def forward(self, rows: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """As `forward_all`; (R, D) the last hidden state of each row's last token."""
        return self.forward_all(rows, ids, starts)[:, -1]

    def fill(self, rows: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """As `forward_all`, but never by what is compiled for a step: its roundings are others, and which of the two a
        single token met would depend on the requests beside it."""
        return self.forward_all(rows, ids, starts, least=2)

    def forward_all(
        self, rows: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], least: int = 1
    ) -> Tensor:
        """Append tokens to rows.

        Args:
            rows: R different row numbers.
            ids: for each at least one token.
            starts: for each the position of its first token; the row holds all before it.
            least: tokens that every row is padded to.

        Returns:
            (R, T, D) last hidden states; a row shorter than the longest repeats its last one.
        """
        longest = max(least, *map(len, ids))
        tokens = [[*row, *[row[-1]] * (longest - len(row))] for row in ids]
        ends = [start + len(row) for start, row in zip(starts, ids, strict=True)]
        places = [[min(start + i, end - 1) for i in range(longest)] for start, end in zip(starts, ends, strict=True)]
        positions = torch.tensor(places, device=self._llm.device)
        columns = self._cache.aim(list(rows), positions, needed=max(ends))
        fed = torch.tensor(tokens, device=self._llm.device)
        # The first pass makes the buffers, which a graph must find.
        if self._graphs and longest == 1 and self._cache.leading and self._cache.addresses:
            try:
                return self._graphs(self._cache, fed, positions, columns)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # Recording fails in many ways; none of them is a reason not to draw.
                logger.warning("generation runs without CUDA graphs: %s: %s", type(error).__name__, error)
                self._graphs, self._recordable = None, False
                self._cache.aim(list(rows), positions, needed=max(ends))
        return self._pass(fed, positions, columns)

    def _pass(self, tokens: Tensor, positions: Tensor, columns: int) -> Tensor:
        hidden: Tensor = self._llm.base_model(
            input_ids=tokens,
            attention_mask=self._masks(positions, columns),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def copy(self, source: int, target: int, columns: int) -> None:
        """Give row `target` what row `source` holds of its first `columns` tokens."""
        self._cache.copy(source, target, columns)

    def clear(self) -> None:
        """Drop what all rows hold, and its memory."""
        self._cache = SlotCache(self._context)
        if self._graphs:  # what was recorded writes to the memory that is dropped, and keeps memory itself
            self._graphs = StepGraphs(self._pass)

    def prepare(self, ahead: int) -> None:
        """Compile what a step runs if so many steps to come, with those before, are worth it; on CUDA, record it."""
        if self._recordable and not self._graphs and ahead >= RECORDED:
            self.compile()
        if self._compiler.possible:
            self._compiler.prepare(ahead)

    def compile(self) -> None:
        """Compile it at once; on CUDA, record it from now on."""
        if self._recordable:
            self._graphs = StepGraphs(self._pass)
        elif self._compiler.possible:
            self._compiler.compile()

    def _rehearse(self, rows: int) -> Tensor:
        """A token of each of so many rows on a cache of its own, which grows beyond what the last pass reads.

        After a prompt, as in life: a token that sees nothing but zeros takes a model to where roundings grow without
        bounds.
        """
        size = self._llm.get_input_embeddings().weight.shape[0]
        prompts = [[(37 * place + 11 * row) % size for place in range(REHEARSED - row)] for row in range(rows)]
        everyone, ids = range(rows), [[row] for row in range(rows)]
        kept, self._cache = self._cache, SlotCache(self._context)
        try:
            self.forward(everyone, ids, [2 * COLUMNS - 1] * rows)
            self.forward(everyone, prompts, [0] * rows)
            return self.forward(everyone, ids, [len(prompt) for prompt in prompts])
        finally:
            self._cache = kept

    @torch.inference_mode()
    def check(self, ids: Sequence[int]) -> None:
        """Compare `forward` with the model's own forward pass on two or more `ids`.

        Raises:
            UserError: they differ, as in a family that treats positions or masks in a way not known here.
        """
        self.forward([1], [ids[:-1]], [0])
        actual = self.forward([1], [ids[-1:]], [len(ids) - 1])[0].float()
        whole = torch.tensor([list(ids)], device=self._llm.device)
        expected = self._llm.base_model(input_ids=whole, use_cache=False).last_hidden_state[0, -1].float()
        # Generous, for in half precision the two round differently; a wrong position or mask is off by more.
        if (actual - expected).abs().max() > 0.1 * expected.abs().max():
            raise UserError(
                f"the family {self._llm.config.model_type!r} treats positions or attention masks in an unknown way: "
                "generation with it is not supported."
            )
