"""The command `liquid`, which the other modules of this package add their commands to."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="liquid",
    help="One language model that reads, writes, sees and draws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
