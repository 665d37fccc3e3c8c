"""Strings at which a reply's text ends, found although the text comes in pieces.

stop = StopStrings(["\\n\\n"])
stop.feed("one\\n")  -> "one"      the line break is held back: it may be the beginning of the end
stop.feed("two")    -> "\\ntwo"    it was not
stop.feed("\\n\\nx")  -> ""         stop.hit is True, and nothing follows
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first of some strings.

    Attributes:
        hit: whether one of them was met.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What of the text so far is certain to come before a stop string and has not been returned yet."""
        text = self._held + text
        # The one that is complete first, so that how the text is cut into pieces makes no difference.
        found = [(start + len(string), start) for string in self._strings if (start := text.find(string)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        certain = len(text) - max((self._begun(text, string) for string in self._strings), default=0)
        self._held = text[certain:]
        return text[:certain]

    def close(self) -> str:
        """What was held back, once no more text follows it."""
        text, self._held = self._held, ""
        return text

    @staticmethod
    def _begun(text: str, string: str) -> int:
        """How many characters of `string` the text ends in."""
        longest = min(len(text), len(string) - 1)
        return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
