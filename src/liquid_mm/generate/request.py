"""What is asked of an engine, what it answers, and the state of a reply under way; nothing here touches a device.

Request(prompt=(2, 77, …, 7), seed=0, image=ImageTask((8, 8), SamplingConfig(top_k=1)))     a picture
Request(prompt=(2, 77, …), seed=0, text=TextTask(32, SamplingConfig(), frozenset({1})))     text
Request(prompt=…, seed=0, image=…, text=…)                              a reply that may open pictures
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray

from liquid_mm.errors import UserError
from liquid_mm.generate.grammar import Grammar, ImageTask, Modality, Part, TextTask
from liquid_mm.generate.guidance import is_guided
from liquid_mm.generate.slots import Slot
from liquid_mm.vocab.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Request:
    """One reply to produce.

    Args:
        prompt: ids the reply follows; for a picture they end in `<boi>`.
        seed: decides every random number of this request, whatever else shares the batch.
        image: how to draw, where a picture is asked for or allowed.
        text: how to write, where text is.
    """

    prompt: tuple[int, ...]
    seed: int
    image: ImageTask | None = None
    text: TextTask | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: it must be a whole number from 0 to 2^63 - 1.")
        if self.text and self.text.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.text.max_new_tokens}: it must be 1 or more.")
        assert self.prompt, "a prompt has at least one id"
        if self.image and is_guided(self.image.sampling.guidance_scale):
            assert self.image.unconditional, "guidance needs an unconditional prompt"

    def check_fits(self, context: int | None) -> None:
        """Raise a `UserError` if the prompt, or the picture after it, exceeds the model's `context` in positions."""
        drawing = self.image if not self.text else None
        needed = drawing.grid[0] * drawing.grid[1] if drawing else 1
        longest = max(len(self.prompt), len(drawing.unconditional) if drawing else 0)
        if context is not None and longest + needed > context:
            raise UserError(
                f"a prompt of {longest} tokens and {needed} to generate exceed the model's context of {context}: "
                f"shorten the prompt{' or ask for a smaller image' if drawing else ''}."
            )


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished reply: its stretches of text ids and code grids, in order."""

    parts: tuple[Part, ...]

    @property
    def codes(self) -> NDArray[np.int64]:
        """The first picture, (rows, columns) codes."""
        return next(part for part in self.parts if isinstance(part, np.ndarray))

    @property
    def ids(self) -> list[int]:
        """All text ids, in order, without the stop id."""
        return [token for part in self.parts if isinstance(part, tuple) for token in part]


@dataclasses.dataclass(frozen=True)
class Event:
    """One id was produced: by request number `index`, as part of text or of a picture; `done` on its last."""

    index: int
    token: int
    modality: Modality
    done: bool


OnEvent = Callable[[Event], None]


class Running:
    """A request under way: the ids so far, its grammar, its own random numbers, the rows it holds.

    Args:
        request: what is asked.
        vocabulary: the model's ids.
        context: positions the model has, or None.
        index: a number for its events.
        on_event: called for every id.
    """

    def __init__(
        self,
        request: Request,
        vocabulary: Vocabulary,
        context: int | None,
        index: int = 0,
        on_event: OnEvent | None = None,
    ) -> None:
        request.check_fits(context)
        self.request, self.index, self._on_event = request, index, on_event
        self.ids = list(request.prompt)
        room = None if context is None else context - len(request.prompt)
        self.grammar = Grammar(vocabulary, request.image, request.text, room)
        self._generator = torch.Generator().manual_seed(request.seed)
        self._uniform: float | None = None
        self.future: Future[Result] = Future()
        self.error: Exception | None = None
        self.cancelled = False
        self.slots: list[Slot] = []
        """None while it waits; then the row of its ids, and the unconditional one while it draws with guidance."""

    @property
    def done(self) -> bool:
        """Whether the reply is complete."""
        return self.grammar.done

    @property
    def over(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return self.done or self.cancelled or self.error is not None

    @property
    def guided(self) -> bool:
        """Whether the next id is chosen against an unconditional row."""
        return self.grammar.drawing and is_guided(self.grammar.sampling.guidance_scale)

    @property
    def rows(self) -> int:
        """How many rows its next id needs."""
        return 0 if self.over else 1 + self.guided

    @property
    def seated(self) -> bool:
        """Whether it has those rows."""
        return len(self.slots) == self.rows

    @property
    def unconditional(self) -> list[int]:
        """Ids of the unconditional row: its prompt and the codes of the picture under way."""
        assert self.request.image
        return [*self.request.image.unconditional, *self.grammar.open_codes]

    def uniform(self) -> float:
        """The random number in [0, 1) for the next id: the same until one is accepted, however often it is tried."""
        if self._uniform is None:
            self._uniform = torch.rand((), generator=self._generator).item()
        return self._uniform

    def accept(self, token: int) -> Event:
        """Add the next id, to every row it has, and tell of it."""
        modality = self.grammar.modality
        self._uniform = None
        self.ids.append(token)
        for slot in self.slots[1:]:
            slot.ids.append(token)
        self.grammar.accept(token)
        event = Event(self.index, token, modality, self.done)
        if self._on_event:
            self._on_event(event)
        return event

    def accept_forced(self) -> None:
        """Add the ids that must come next, if any, without asking the model."""
        while not self.over and (token := self.grammar.forced) is not None:
            self.accept(token)

    def result(self) -> Result:
        """The finished reply."""
        assert self.done
        return Result(tuple(self.grammar.parts))

    def hand_over(self) -> None:
        """Fulfil the future, unless it was cancelled."""
        if self.future.set_running_or_notify_cancel():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.result())
