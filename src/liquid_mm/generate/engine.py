"""One engine for the command line, evaluation and serving: requests of any kind join and leave while others run.

    submit ──> waiting ──in order of arrival──> rows ──> [ fill what is new ─ advance all ─ choose ids ]* ──> result

A request holds one row, two while it draws a guided picture (prompt and unconditional prompt, both fed the same code).
In a step all rows advance by one id in one pass; then the head's rows for codes are multiplied for those that draw, the
text rows for those that write, and requests that sample alike are sampled together. A reply that opens a guided picture
takes its second row when one is free and keeps its state until then.

    engine = Engine(llm, vocabulary)
    future = engine.submit(request, on_event=print)     # any thread, at any time
    while engine.step(): ...                            # one thread: the worker
    future.result()

Threads: `submit` and `cancel` may be called from any. `step` and `run` may too, but only one steps at a time: a second
waits for the first one's step to end, then advances everybody's requests with its own. `on_event` and the callbacks of
futures are called by whoever steps.

Rules live in `grammar`, a reply's state in `request.Running`, rows in `slots`, device work in `runner`.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.generate.guidance import guide
from liquid_mm.generate.head import Head
from liquid_mm.generate.packed import is_packed
from liquid_mm.generate.request import OnEvent, Request, Result, Running
from liquid_mm.generate.runner import Runner
from liquid_mm.generate.sampling import sample
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.generate.slots import Slots
from liquid_mm.vocab.vocabulary import Vocabulary

FAILURES = 3
"""Steps that may fail one after another: after an illegal access a GPU fails at every one, whatever is asked."""

logger = logging.getLogger(__name__)


def context_length(llm: Any) -> int | None:
    """Positions a Hugging Face causal LM has, or None where its configuration sets no bound.

    Of two sets of frequencies ("longrope", as in Phi-3 128k) only the one for short contexts is used: transformers
    chooses by the longest row of a batch, so that one request would change what its neighbours are.
    """
    config = llm.config.get_text_config()
    most: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if most is not None and rope.get("rope_type") == "longrope":
        short = rope.get("original_max_position_embeddings")
        short = short or getattr(config, "original_max_position_embeddings", None)
        return min(most, short or most)
    return most


class Engine:
    """Generates for a Hugging Face causal LM.

    Args:
        llm: the model, in evaluation mode.
        vocabulary: its ids.
        max_batch: most rows at once, at least the two a guided picture takes. Further requests wait.

    Raises:
        UserError: the model's family is not supported.
    """

    def __init__(self, llm: Any, vocabulary: Vocabulary, max_batch: int = 16) -> None:
        self.llm, self.vocabulary, self.max_batch = llm, vocabulary, max_batch
        self._context = context_length(llm)
        # The rows of codes are few and read at every step; those of text would cost their memory twice.
        self._head = Head(llm, probe=vocabulary.eos, pack=[vocabulary.codes] if is_packed(llm) else [])
        self._runner = Runner(llm, self._context)
        self._runner.check((vocabulary.eos, vocabulary.boi, vocabulary.eoi, vocabulary.unconditional))
        self._slots = Slots(max(2, max_batch), self._runner)
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._stepping = threading.Lock()
        self._work = threading.Event()
        self._failed = 0  # steps, one after another

    def submit(self, request: Request, on_event: OnEvent | None = None, index: int = 0) -> Future[Result]:
        """Queue a request; any thread may call this.

        Args:
            request: what is asked.
            on_event: called for every id produced, by the thread that steps.
            index: the number its events carry.

        Returns:
            A future: the reply, or what went wrong with this one request.

        Raises:
            UserError: the request does not fit the model's context.
        """
        state = Running(request, self.vocabulary, self._context, index, on_event)
        self._enqueue([state])
        return state.future

    def cancel(self, future: Future[Result]) -> None:
        """Give a request up; any thread may call this. Its rows are free before anything else is computed."""
        future.cancel()
        self._work.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until there is something to do, or for `timeout` seconds; whether there is."""
        return self._work.wait(timeout)

    def run(self, requests: Sequence[Request], on_event: OnEvent | None = None) -> list[Result]:
        """The reply to each request, in order; `on_event` is called for every id produced.

        Raises:
            UserError: a request does not fit the model's context (before anything is generated).
        """
        states = [Running(r, self.vocabulary, self._context, i, on_event) for i, r in enumerate(requests)]
        self._enqueue(states)
        try:
            while not all(state.future.done() for state in states):
                self.step()
                if failed := [state for state in states if state.error]:
                    failed[0].future.result()
            return [state.future.result() for state in states]
        finally:
            # After an error or Ctrl-C nobody is left to want the others.
            for state in states:
                self.cancel(state.future)

    @torch.inference_mode()
    def step(self) -> bool:
        """Advance every request by one id; whether there is more to do.

        What goes wrong with one request ends in its future; what goes wrong on the device, in those of all that run,
        but for memory that runs out: then they go on fewer at once, and only a request that has no room alone fails.
        Requests that wait are tried with the next step.

        Raises:
            Exception: what the device said, once `FAILURES` steps have failed one after another: it is lost.
        """
        with self._stepping:
            self._work.clear()
            for state in self._running:
                self._attempt(state)
            self._settle()
            self._admit()
            ready = [state for state in self._running if state.seated]
            lost: Exception | None = None
            if ready:
                self._runner.prepare(self._steps_ahead())
                try:
                    chosen = self._choose(ready, self._slots.advance())
                except Exception as error:
                    if is_out_of_memory(error):
                        self._shrink(error)
                    else:
                        self._fail_all(error)
                        self._failed += 1
                        lost = error if self._failed >= FAILURES else None
                else:
                    self._failed = 0
                    for state, token in zip(ready, chosen, strict=True):
                        self._attempt(state, token)
                self._settle()
                if lost:
                    raise lost
            if more := bool(self._running or self._waiting):
                self._work.set()
            return more

    def compile(self) -> None:
        """Compile the step now rather than once the work at hand pays for it (`generate.compiled`)."""
        with self._stepping, torch.inference_mode():
            self._runner.compile()

    def _steps_ahead(self) -> int:
        """Steps that are sure to come: those of the longest picture, and more where not all fit in at once."""
        left = [state.grammar.codes_left for state in (*self._running, *self._waiting)]
        return max(max(left), 2 * sum(left) // max(2, self.max_batch))

    def _enqueue(self, states: Sequence[Running]) -> None:
        self._waiting.extend(states)
        self._work.set()

    def _attempt(self, state: Running, token: int | None = None) -> None:
        """Let a request take its next id, or those that are forced; an error is its own."""
        try:
            if token is None:
                # Read once a step, for another thread may cancel at any moment.
                state.cancelled = state.future.cancelled()
                state.accept_forced()
            elif token < 0:
                raise UserError(
                    "the model's numbers overflow (its logits are not numbers): load it with dtype float32 or bfloat16."
                )
            else:
                state.accept(token)
        except Exception as error:
            state.error = error

    def _settle(self) -> None:
        """Free the rows that are needed no more, and hand over what is finished."""
        unneeded = [slot for state in self._running for slot in state.slots[state.rows :]]
        self._slots.release(unneeded)
        for state in self._running:
            del state.slots[state.rows :]
        over = [state for state in self._running if state.over]
        self._running = [state for state in self._running if not state.over]
        for state in over:
            state.hand_over()

    def _admit(self) -> None:
        """Give rows to replies that opened a guided picture, then to those that wait, in order of arrival."""
        for state in self._running:
            self._seat(state)
        while self._waiting:
            state = self._waiting[0]
            self._attempt(state)
            if state.rows > self._slots.free:
                break
            self._waiting.popleft()
            if state.over:
                state.hand_over()
            else:
                self._seat(state)
                self._running.append(state)
        if self._running and not any(state.seated for state in self._running):
            # All wait for a second row and hold the rows the others need: the youngest starts again from its ids.
            youngest = self._running.pop()
            self._slots.release(youngest.slots)
            youngest.slots.clear()
            self._waiting.appendleft(youngest)
            self._seat(self._running[0])

    def _seat(self, state: Running) -> None:
        while len(state.slots) < state.rows and self._slots.free:
            state.slots.append(self._slots.take(state.unconditional if state.slots else state.ids))

    def _fail_all(self, error: Exception) -> None:
        for state in self._running:
            state.error = error
            state.slots.clear()
        self._slots.clear()

    def _shrink(self, error: Exception) -> None:
        """Out of memory: all start again from their ids, the youngest last, never so many at once; one alone fails."""
        *others, youngest = self._running
        kept = sum(len(state.slots) for state in others)
        for state in self._running:
            state.slots.clear()
        self._slots.clear()
        if not others:
            youngest.error = UserError(f"not enough memory for this request: {error}")
            return
        logger.warning(
            "memory ran out with %d requests at once; at most %d rows from now on", len(others) + 1, max(2, kept)
        )
        self._slots.limit(max(2, kept))
        self._waiting.extendleft(reversed(others))
        self._waiting.append(youngest)
        self._running = []

    def _choose(self, states: list[Running], hidden: Tensor) -> list[int]:
        """The next id of each request, or -1 where the model gives no numbers; `hidden` is (rows, D)."""
        chosen: dict[Running, int] = {}
        by_span: defaultdict[range, list[Running]] = defaultdict(list)
        for state in states:
            by_span[state.grammar.choice.span].append(state)
        for span, group in by_span.items():
            # The conditional row of each, then the unconditional ones.
            rows = [s.slots[0].row for s in group] + [s.slots[1].row for s in group if s.guided]
            logits = self._head(hidden[rows], span)
            unconditional = dict(zip([s for s in group if s.guided], range(len(group), len(rows)), strict=True))
            alike: defaultdict[tuple[SamplingConfig, tuple[int, ...]], list[int]] = defaultdict(list)
            for index, state in enumerate(group):
                alike[state.grammar.sampling, state.grammar.choice.excluded].append(index)
            for (sampling, excluded), members in alike.items():
                scores = logits[members]
                if group[members[0]].guided:
                    against = logits[[unconditional[group[i]] for i in members]]
                    scores = guide(scores, against, sampling.guidance_scale)
                scores[:, [i - span.start for i in excluded]] = -torch.inf
                uniform = torch.tensor([group[i].uniform() for i in members])
                for i, index in zip(members, _sample(scores, sampling, uniform), strict=True):
                    chosen[group[i]] = index if index < 0 else index + span.start
        return [chosen[state] for state in states]


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, had no memory left for tensors."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _sample(logits: Tensor, sampling: SamplingConfig, uniform: Tensor) -> list[int]:
    """One index per row of (B, V) logits, or -1 for a row that holds NaN or infinity; changes `logits`."""
    broken = ~(logits < torch.inf).all(-1)
    sampled = sample(logits.masked_fill_(broken[:, None], 0.0), sampling, uniform)
    indices: list[int] = sampled.masked_fill(broken, -1).tolist()
    return indices
