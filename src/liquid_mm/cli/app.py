"""The command `liquid`, which the other modules of this package add their commands to."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

app = typer.Typer(
    name="liquid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"liquid {importlib.metadata.version('liquid-mm')}")
        raise typer.Exit


@app.callback()
def liquid(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One language model that reads, writes, sees and draws."""
