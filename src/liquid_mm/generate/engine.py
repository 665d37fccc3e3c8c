"""One engine for the command line, evaluation and serving: many requests of any kind in one batch.

    requests ──admit──> rows of a batch ──prefill──> [ choose an id per request ─ advance every row ]* ──> results

A request is one row, two while it draws a guided picture (prompt and unconditional prompt, both fed the same code). In
every step requests with the same choice are sampled together from just the head's rows that choice allows. A reply that
opens a guided picture needs a second row in mid-flight: it leaves the batch and comes back in a later one with both.

State lives in `request.Running`, rules in `grammar`, device work in `runner.Batch`; this file only joins them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import torch

from liquid_mm.generate.grammar import Choice
from liquid_mm.generate.guidance import guide
from liquid_mm.generate.head import Head
from liquid_mm.generate.request import OnEvent, Request, Result, Running
from liquid_mm.generate.runner import Batch
from liquid_mm.generate.sampling import SamplingConfig, sample
from liquid_mm.vocab.vocabulary import Vocabulary

Row = tuple[Running, bool]
"""A row of the batch: whose it is, and whether it is the unconditional one."""


def context_length(llm: Any) -> int | None:
    """Positions a Hugging Face causal LM has, or None where its configuration sets no bound."""
    return getattr(llm.config.get_text_config(), "max_position_embeddings", None)


class Engine:
    """Generates for a Hugging Face causal LM.

    Args:
        llm: the model, in evaluation mode.
        vocabulary: its ids.
        max_batch: most rows at once; a guided picture takes two. Further requests wait.
    """

    def __init__(self, llm: Any, vocabulary: Vocabulary, max_batch: int = 16) -> None:
        self.llm, self.vocabulary, self.max_batch = llm, vocabulary, max_batch
        self._head = Head(llm, probe=vocabulary.eos)
        self._context = context_length(llm)

    @torch.inference_mode()
    def run(self, requests: Sequence[Request], on_event: OnEvent | None = None) -> list[Result]:
        """The reply to each request, in order; `on_event` is called for every id produced.

        Raises:
            UserError: a request does not fit the model's context (before anything is generated).
        """
        states = [Running(r, self.vocabulary, self._context, i) for i, r in enumerate(requests)]
        waiting = deque(states)
        while waiting:
            waiting.extendleft(reversed(self._run_batch(self._admit(waiting), on_event)))
        return [state.result() for state in states]

    def _admit(self, waiting: deque[Running]) -> list[Running]:
        admitted = [waiting.popleft()]
        rows = 1 + admitted[0].guided
        while waiting and rows + 1 + waiting[0].guided <= self.max_batch:
            admitted.append(waiting.popleft())
            rows += 1 + admitted[-1].guided
        return admitted

    def _run_batch(self, states: list[Running], on_event: OnEvent | None) -> list[Running]:
        """Run until each state is done or has to leave; those that left."""
        rows: list[Row] = [(s, False) for s in states] + [(s, True) for s in states if s.guided]
        batch = Batch(self.llm, [s.unconditional if second else s.ids for s, second in rows], self.vocabulary.pad)
        left: list[Running] = []
        while True:
            tokens = self._choose(rows, batch.hidden)
            for state in tokens:
                event = state.accept(tokens[state])
                if on_event:
                    on_event(event)
            doubled = {state for state, second in rows if second}
            left += [s for s in tokens if s.guided and s not in doubled]
            staying = {s for s in tokens if not s.done and s not in left}
            kept = [i for i, (s, second) in enumerate(rows) if s in staying and (s.guided or not second)]
            if not kept:
                return left
            if len(kept) < len(rows):
                batch.keep(kept)
                rows = [rows[i] for i in kept]
            batch.decode_one([tokens[state] for state, _ in rows])

    def _choose(self, rows: list[Row], hidden: torch.Tensor) -> dict[Running, int]:
        """The next id of every request in the batch."""
        first = {state: i for i, (state, second) in enumerate(rows) if not second}
        second = {state: i for i, (state, second) in enumerate(rows) if second}
        tokens: dict[Running, int] = {}
        alike: defaultdict[tuple[Choice, SamplingConfig], list[Running]] = defaultdict(list)
        for state in first:
            if (forced := state.grammar.forced) is not None:
                tokens[state] = forced
            else:
                alike[state.grammar.choice, state.grammar.sampling].append(state)
        for (choice, sampling), group in alike.items():
            guided = [state for state in group if state.guided]
            assert len(guided) in (0, len(group)), "requests that sample alike are guided alike"
            logits = self._head(hidden[[first[s] for s in group] + [second[s] for s in guided]], choice.span)
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, sampling.guidance_scale)
            logits[:, [i - choice.span.start for i in choice.excluded]] = -torch.inf
            uniform = torch.tensor([state.uniform() for state in group])
            chosen = sample(logits, sampling, uniform) + choice.span.start
            tokens.update(zip(group, chosen.tolist(), strict=True))
        return tokens
