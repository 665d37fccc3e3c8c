"""The command line: subcommands of a few lines each that call the library. No logic lives here.

Heavy imports happen inside the commands, so that `liquid --help` answers at once. The order of the imports below is the
order of the commands in the help text.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys

from liquid_mm import TALKATIVE

from liquid_mm.cli import generate as generate  # isort: skip
from liquid_mm.cli import models as models  # isort: skip
from liquid_mm.cli import data as data  # isort: skip
from liquid_mm.cli import train as train  # isort: skip
from liquid_mm.cli import scaling as scaling  # isort: skip
from liquid_mm.cli import evaluate as evaluate  # isort: skip
from liquid_mm.cli import serve as serve  # isort: skip
from liquid_mm.cli.app import app
from liquid_mm.errors import UserError


def main() -> None:
    """Run the command line: a user's mistake ends in one sentence and exit code 2, never in a traceback."""
    # Other libraries' progress bars and notes would bury ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for logger in TALKATIVE:
        logger.setLevel(logging.ERROR)
    atexit.register(gc.freeze)  # a last search for garbage among all of PyTorch's modules takes a second
    try:
        app()
    except UserError as error:
        print(f"liquid: {error}", file=sys.stderr)
        sys.exit(2)
