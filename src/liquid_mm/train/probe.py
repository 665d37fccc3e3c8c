"""What a family's layers do with packed rows, found out by running a few tokens: names and configurations do not tell.

Attention is replaced by handing each token's own value on, so that nothing passes between tokens there; then half a row
must come out the same whatever the other half holds. Where it does not, something besides attention looks along the row
(a convolution, a state space), or the rotation of queries and keys depends on how long the row is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME, TOKENS = "liquid_probe", 8

WINDOW = 2

Call = tuple[Tensor, Tensor, Tensor, Tensor | None, int | None, bool]
"""Query, key and value (1, heads, T, D), mask, sliding window, and whether a word of ours came through: what one
attention layer asks with. What comes after the last layer stands behind as if it asked too."""


class Probe(NamedTuple):
    """What was found.

    Attributes:
        attention: how many layers asked for attention.
        hands_down: all of them hand keyword arguments of the model down to it.
        windows_told: those that see a window of the row say so by keyword, not by their mask alone.
        apart: tokens meet in attention alone, and what is done to them depends on their own position alone.
    """

    attention: int
    hands_down: bool
    windows_told: bool
    apart: bool


@torch.no_grad()
def probe(llm: Any, length: int) -> Probe:
    """Look at a Hugging Face causal LM, on its device; it is left as it was.

    Args:
        llm: the model, running SDPA.
        length: tokens of the longest row it will see; long positions may be treated otherwise than short ones.
    """
    half = TOKENS // 2
    first, last, other = torch.arange(3 * half, device=llm.device).view(3, 1, half)
    near = torch.arange(half, device=llm.device)[None]
    far = near + max(length, TOKENS) - half
    with _listening(llm) as run:
        short = run([first, last], [near, near])
        long = run([first, last], [near, far])
        after = run([other, last], [near, far])
        windows = _with_window(llm, lambda: run([first, last], [near, near + half]))
    apart = len(short) == len(long) == len(after)
    for a, b, c in zip(short, long, after, strict=False):
        apart = apart and all(_agree(a[at][..., :half, :], b[at][..., :half, :]) for at in range(3))
        apart = apart and all(_agree(b[at][..., half:, :], c[at][..., half:, :]) for at in range(3))
    *whole, _ = short
    return Probe(
        attention=len(whole),
        hands_down=all(call[5] for call in whole),
        windows_told=all(call[4] is not None or not _hides(call[3]) for call in windows),
        apart=apart,
    )


@contextlib.contextmanager
def _listening(llm: Any) -> Iterator[Any]:
    """Inside, a function from the parts of a row, ids and positions, to what every layer asks attention with."""
    calls: list[Call] = []

    def listen(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        calls.append((query, key, value, mask, options.get("sliding_window"), bool(options.get(NAME))))
        return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2), None

    def run(ids: list[Tensor], positions: list[Tensor]) -> list[Call]:
        calls.clear()
        together = {"input_ids": torch.cat(ids, 1), "position_ids": torch.cat(positions, 1)}
        output = llm.base_model(**together, use_cache=False, **{NAME: True}).last_hidden_state[:, None]
        return [*calls, (output, output, output, None, None, True)]

    AttentionInterface.register(NAME, listen)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before, training = llm.config._attn_implementation, llm.training
    llm.set_attn_implementation(NAME)
    llm.eval()
    try:
        yield run
    finally:
        llm.train(training)
        llm.set_attn_implementation(before)


def _with_window(llm: Any, run: Callable[[], list[Call]]) -> list[Call]:
    """What `run` returns where masks, which are made from the configuration, are of a small window."""
    config = llm.config.get_text_config()
    before = getattr(config, "sliding_window", None)
    if before is None:
        return run()
    config.sliding_window = WINDOW
    try:
        return run()
    finally:
        config.sliding_window = before


def _hides(mask: Tensor | None) -> bool:
    """Whether a mask (1, 1, T, T) keeps a token from an earlier one."""
    if mask is None:
        return False
    seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] >= 0
    return bool((~seen).tril().any())


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same, but for rounding."""
    tolerance = 1e-5 if a.dtype == torch.float32 else 0.02
    return bool((a - b).abs().max() <= tolerance * a.abs().max())
