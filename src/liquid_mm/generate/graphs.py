"""CUDA graphs of the decoding step: its kernels recorded once, then launched all together.

    first step of a shape    tokens, positions -> tensors of our own -> run the step, recorded
    later ones               copy tokens and positions there, replay, read the same output tensor

A graph repeats what it recorded on the same memory, so each is for one number of rows, one number of columns read and
one set of cache buffers. Each recording is compared with the eager step; where one fails or differs, steps stay eager
(`generate.runner`). **This has not been run on a GPU by us yet**, only its bookkeeping is tested
(tests/generate/test_graphs.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from liquid_mm.generate.cache import SlotCache

Step = Callable[[Tensor, Tensor, int], Tensor]
"""From tokens (R, 1), positions (R, 1) and columns to hidden states (R, 1, D), on the cache as it is aimed."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A graph and its memory: fill `tokens` and `positions`, call `replay`, read `hidden`; `rows` is only kept."""

    tokens: Tensor
    positions: Tensor
    rows: Tensor
    hidden: Tensor
    replay: Callable[[], None]


def record(step: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """The output tensor of `step`, and what fills it again.

    Raises:
        RuntimeError: the step cannot be recorded, or its recording gives something else.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries allocate and choose algorithms in their first calls, which no graph may hold
            expected = step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    before = torch.cuda.current_stream()
    try:
        # Other threads decode pictures on this device meanwhile; what they allocate does not belong here.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            hidden = step()
    finally:
        torch.cuda.set_stream(before)  # where recording failed, torch stays on the stream it recorded on
    graph.replay()
    difference = (hidden - expected).abs().max() / expected.abs().max()
    if not difference < 0.01:
        raise RuntimeError(f"a recorded step differs from an eager one by {float(difference):.2%}")
    return hidden, graph.replay


class StepGraphs:
    """Runs steps, each shape recorded at its first.

    Args:
        step: what to record; running it twice with the same input changes nothing.
        recorder: `record`, or another that a test can run.
    """

    def __init__(
        self, step: Step, recorder: Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]] = record
    ) -> None:
        self._step, self._recorder = step, recorder
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._memory: tuple[int, ...] = ()

    def __call__(self, cache: SlotCache, tokens: Tensor, positions: Tensor, columns: int) -> Tensor:
        """As `step`; the result is overwritten by the next one of its shape."""
        if (memory := cache.addresses) != self._memory:
            self._recorded.clear()  # the cache has grown: what was recorded writes to memory that is gone
            self._memory = memory
        key = (len(tokens), columns)
        if key not in self._recorded:
            self._recorded[key] = self._record(cache, tokens.clone(), positions.clone(), columns)
        found = self._recorded[key]
        found.tokens.copy_(tokens)
        found.positions.copy_(positions)
        found.replay()
        return found.hidden

    def _record(self, cache: SlotCache, tokens: Tensor, positions: Tensor, columns: int) -> Recorded:
        # A row's number is its index here, so the recorded one never changes; positions are read from our tensor.
        rows = cache.hold(positions)
        hidden, replay = self._recorder(lambda: self._step(tokens, positions, columns))
        return Recorded(tokens, positions, rows, hidden, replay)
