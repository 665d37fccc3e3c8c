"""The error a user can act on.

`UserError` is raised for anything the person at the keyboard can mend: a wrong path, a size that does not divide, an
unknown key. Its message says what is wrong, where, and what is allowed. The command line prints it alone and exits with
code 2; library users catch it as a `ValueError`. Bugs of ours stay `AssertionError`s with their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right; the message says how."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint for an unknown `name`: the closest allowed one, or the whole list.

    >>> nearest("learning_rat", ["learning_rate", "steps"])
    "did you mean 'learning_rate'?"
    """
    options = sorted(allowed)
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(options)}."
