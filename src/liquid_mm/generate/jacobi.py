"""Speculative Jacobi decoding: several codes of a picture guessed, and verified in one pass (arXiv 2410.01699).

    accepted …  a b | ? ? ? ?     guesses for the next codes, each drawn from a distribution q that is remembered
    one pass          p p p p p   what the model says of each place, given the guesses before it
    a guess x stays with probability min(1, p(x) / q(x)); the first that does not is drawn anew from max(0, p − q),
    and those behind it are guessed again, from the p just computed

What comes out has exactly the distribution of drawing one code after another, guidance, temperature, top-k and top-p
included, and greedy decoding gives exactly its codes. But it is another sample: more random numbers are used, so a seed
draws another picture than with the engine. A pass computes `window` places where a step computes one; it pays only if
so many guesses stay that they are worth that. On the demo model a window of 8 is 1.5 times as fast as the engine with
one picture (docs/performance.md).

Not part of the engine, whose rows all advance by one id a step: one picture at a time, and no codes that are kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liquid_mm.generate.engine import context_length
from liquid_mm.generate.guidance import guide, is_guided
from liquid_mm.generate.head import Head
from liquid_mm.generate.packed import is_packed
from liquid_mm.generate.request import Request
from liquid_mm.generate.runner import Runner
from liquid_mm.generate.sampling import scale_temperature, top_k, top_p
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture, (rows, columns) codes, and how many passes over the model it took."""

    codes: NDArray[np.int64]
    passes: int


class Jacobi:
    """Draws pictures with a Hugging Face causal LM.

    Args:
        llm: the model, in evaluation mode.
        vocabulary: its ids.
        window: places computed in one pass, at least 1 (which is ordinary decoding).
    """

    def __init__(self, llm: Any, vocabulary: Vocabulary, window: int = 8) -> None:
        assert window >= 1
        self._vocabulary, self._window, self._context = vocabulary, window, context_length(llm)
        self._head = Head(llm, probe=vocabulary.eos, pack=[vocabulary.codes] if is_packed(llm) else [])
        self._runner = Runner(llm, self._context)

    @torch.inference_mode()
    def draw(self, request: Request) -> Drawn:
        """The picture that a request asks for.

        Raises:
            UserError: the request does not fit the model's context.
        """
        request.check_fits(self._context)
        task = request.image
        assert task
        assert not task.kept, "codes that are kept are for the engine"
        rows = [list(request.prompt)]
        rows += [list(task.unconditional)] if is_guided(task.sampling.guidance_scale) else []
        random = torch.Generator().manual_seed(request.seed)
        for row, ids in enumerate(rows):
            self._runner.forward([row], [ids[:-1]], [0])
        codes: list[int] = []
        guesses: list[int] = []
        drafts = torch.empty(0, self._vocabulary.num_codes)
        count, passes = task.grid[0] * task.grid[1], 0
        while len(codes) < count:
            passes += 1
            found = self._probabilities(rows, guesses, task.sampling)
            taken = accept(guesses, drafts, found, random)
            codes += taken
            for ids in rows:
                ids += [code + self._vocabulary.code_offset for code in taken]
            # Places behind are guessed from what was just computed, new ones as the last of them.
            left = min(self._window, count - len(codes)) - 1
            known = found[len(taken) :] if len(taken) < len(found) else found[-1:]
            drafts = torch.cat([known, known[-1:].expand(max(0, left - len(known)), -1)])[: max(0, left)]
            guesses = [_draw(draft, random) for draft in drafts]
        return Drawn(np.array(codes[:count]).reshape(task.grid), passes)

    def _probabilities(self, rows: list[list[int]], guesses: list[int], sampling: SamplingConfig) -> Tensor:
        """(1 + guesses, codes): of the next place, and of each behind it were the guesses before it right."""
        ids = [code + self._vocabulary.code_offset for code in guesses]
        feed, starts = [[row[-1], *ids] for row in rows], [len(row) - 1 for row in rows]
        hidden = self._runner.forward_all(range(len(rows)), feed, starts)
        logits = self._head(hidden.flatten(0, 1), self._vocabulary.codes).view(*hidden.shape[:2], -1)
        guided = guide(logits[0], logits[1], sampling.guidance_scale) if len(rows) > 1 else logits[0]
        values, indices = top_k(scale_temperature(guided, sampling.temperature), sampling.top_k)
        kept = top_p(values.softmax(-1), sampling.top_p)
        kept = kept / kept.sum(-1, keepdim=True)
        return torch.zeros_like(guided, dtype=kept.dtype).scatter_(-1, indices, kept).cpu()


def accept(guesses: list[int], drafts: Tensor, found: Tensor, random: torch.Generator) -> list[int]:
    """The codes that are certain after a pass, at least one.

    Args:
        guesses: G codes.
        drafts: (G, codes), the distributions they were drawn from.
        found: (G + 1, codes), what the model says of each place if all guesses before it are right.
        random: the request's numbers.
    """
    taken: list[int] = []
    for guess, draft, probability in zip(guesses, drafts, found, strict=False):
        if torch.rand((), generator=random) * draft[guess] < probability[guess]:
            taken.append(guess)
        else:
            return [*taken, _draw((probability - draft).clamp_(min=0), random)]
    return [*taken, _draw(found[-1], random)]


def _draw(weights: Tensor, random: torch.Generator) -> int:
    return int(torch.multinomial(weights, 1, generator=random))
