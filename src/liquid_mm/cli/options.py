"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.errors import UserError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say how to install what an import inside misses."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"this needs the package {error.name}: pip install 'liquid-mm[{name}]'.") from error


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of text such as "512x384"."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size: write width x height in pixels, as in 512x512.")
    return int(width), int(height)


Checkpoint = Annotated[str, typer.Argument(help="A Liquid checkpoint folder, or 'demo' for the model that ships.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Recipe = Annotated[Path, typer.Argument(help="A YAML recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key=value or key.sub=value.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in that folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; by default the best there is.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default what the device is good at.")]
Seed = Annotated[int | None, typer.Option(help="Makes the result repeatable.")]
Size = Annotated[Any, typer.Option(metavar="WxH", parser=parse_size, help="Pixels; by default the model's own.")]
Tokenizer = Annotated[
    Path, typer.Option("--image-tokenizer", "-t", help="Folder of an image tokenizer, or of a checkpoint; or 'demo'.")
]
MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="Of the sampling; lower is safer.")]
TopK = Annotated[int, typer.Option(help="Choose among that many likeliest tokens; 1 is greedy.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens that hold this much probability.")]
Guidance = Annotated[
    float | None,
    typer.Option(help="How strongly pictures follow the prompt; 1: none, and faster. By default what suits the model."),
]
