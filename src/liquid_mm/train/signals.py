"""Stopping a run between two steps, never within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM after its checkpoint was written; the message says how to go on.

    Args:
        message: for the person at the keyboard.
        preempted: it was SIGTERM, as schedulers send, so that to stop is no failure.
    """

    def __init__(self, message: str, *, preempted: bool = False) -> None:
        super().__init__(message)
        self.preempted = preempted


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM in the list yielded, so that a step is never cut in two.

    A second one ends the run at once. Outside the main thread signals stay as they are.
    """
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return

    def take(number: int, frame: Any) -> None:
        if got:
            raise KeyboardInterrupt
        got.append(number)

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
