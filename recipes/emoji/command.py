"""How the commands of this folder end: a user's mistake is one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import typer

from liquid_mm import TALKATIVE
from liquid_mm.errors import UserError

for logger in TALKATIVE:
    logger.setLevel(logging.ERROR)


def run(main: Callable[..., Any]) -> None:
    """Run `main` with the arguments of the command line."""
    try:
        typer.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
