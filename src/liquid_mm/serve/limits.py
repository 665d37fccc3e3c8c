"""Who may come in, and how many at once.

place = admission.admit(replies=4, key="3fa1…")     Busy when four more would wait too long in line
place.started(0)                                    its first piece arrived: it waits no more
place.leave()
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import Counter
from collections.abc import Sequence

from liquid_mm.errors import UserError
from liquid_mm.serve.errors import Busy, Unauthorized


def check_text(text: str, most: int) -> None:
    """Raise `UserError` for a prompt that is longer than `most` characters, or no text."""
    if len(text) > most:
        raise UserError(f"the prompt has {len(text):,} characters: at most {most:,} are allowed.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("the prompt holds half of a surrogate pair, which is no character.")


def check_tokens(count: int, most: int) -> None:
    """Raise `UserError` where more tokens are asked for than `most`."""
    if count > most:
        raise UserError(f"{count} tokens are asked for: at most {most} are allowed.")


class Keys:
    """The keys that open the server; without any it stands open."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name(self, key: str) -> str | None:
        """A short name of one of the keys, fit for logs, or None of another string.

        Digests are compared, all of them and each in constant time: how long it takes tells nothing about a key.
        """
        given = hashlib.sha256(key.encode()).digest()
        known = sum([hmac.compare_digest(given, digest) for digest in self._digests])
        return given.hex()[:8] if known else None

    def check(self, authorization: str | None) -> str | None:
        """The name of the key in an `Authorization` header; None where no key is needed.

        Raises:
            Unauthorized: there is no key, or not one of ours.
        """
        if not self:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        name = self.name(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            raise Unauthorized("this server needs an API key: send it as `Authorization: Bearer KEY`.")
        return name


class Admission:
    """Counts the replies under way.

    Args:
        max_queue: replies nothing has been computed of yet, at most.
        max_per_key: replies under way for one key, or for one window of the page, at most.
    """

    def __init__(self, max_queue: int, max_per_key: int) -> None:
        self._max_queue, self._max_per_key = max_queue, max_per_key
        self._by_key: Counter[str] = Counter()
        self._seconds = 1.0
        self.waiting = self.running = 0

    def admit(self, replies: int, key: str | None) -> Place:
        """Room for a request of so many replies.

        Raises:
            Busy: there is none, now.
        """
        if self.waiting + replies > self._max_queue:
            raise Busy(
                f"the server is busy: {self.waiting} replies wait and at most {self._max_queue} may.", self._estimate()
            )
        if key is not None and self._by_key[key] + replies > self._max_per_key:
            raise Busy(f"you have {self._by_key[key]} of at most {self._max_per_key} replies under way.", 1)
        return Place(self, replies, key)

    def _estimate(self) -> int:
        """Seconds until some of those that wait have gone: as long as recent requests took, within reason."""
        return min(60, max(1, math.ceil(self._seconds)))

    def _enter(self, replies: int, key: str | None) -> None:
        self.waiting += replies
        if key is not None:
            self._by_key[key] += replies

    def _start(self) -> None:
        self.waiting -= 1
        self.running += 1

    def _leave(self, waiting: int, running: int, key: str | None, seconds: float) -> None:
        self.waiting -= waiting
        self.running -= running
        self._seconds += 0.2 * (seconds - self._seconds)
        if key is not None:
            self._by_key[key] -= waiting + running
            self._by_key += Counter()  # forgets keys that have nothing under way


class Place:
    """What one request holds while it is under way."""

    def __init__(self, admission: Admission, replies: int, key: str | None) -> None:
        self._admission, self._key = admission, key
        self._waiting, self._running = set(range(replies)), 0
        self._since: float | None = time.monotonic()
        admission._enter(replies, key)

    def started(self, index: int) -> bool:
        """Take note that something of a reply has been computed; whether that is news."""
        if self._since is None or index not in self._waiting:
            return False
        self._waiting.discard(index)
        self._running += 1
        self._admission._start()
        return True

    def leave(self) -> None:
        """Give it back; a second time does nothing."""
        if self._since is not None:
            seconds, self._since = time.monotonic() - self._since, None
            self._admission._leave(len(self._waiting), self._running, self._key, seconds)
