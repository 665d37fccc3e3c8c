"""What is left to chance in an answer: its id, and its seed where a request names none.

On one machine both are drawn. In a cluster a request may be run again, where another replica takes over what a dead one
left; it then carries what was drawn the first time, and the second answer is the first one.
"""

from __future__ import annotations

import hashlib
import secrets
from contextvars import ContextVar

_drawn: ContextVar[str | None] = ContextVar("drawn", default=None)


def draw() -> str:
    """Fresh chance for one request, as text."""
    return secrets.token_hex(16)


def use(drawn: str) -> None:
    """Make what follows in this task, and in those it starts, depend on `drawn` alone."""
    _drawn.set(drawn)


def some_seed() -> int:
    """A seed below 2^31."""
    return int(_bits("seed"), 16) >> 97


def some_id() -> str:
    """24 characters nobody else has."""
    return _bits("id")[:24]


def _bits(what: str) -> str:
    """128 bits for one purpose, so that one tells nothing about another."""
    drawn = _drawn.get() or draw()
    return hashlib.sha256(f"{what}:{drawn}".encode()).hexdigest()[:32]
