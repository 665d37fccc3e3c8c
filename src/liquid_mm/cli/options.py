"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.errors import UserError
from liquid_mm.generate.sampling_config import SamplingConfig


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


# What can be refused is refused here: loading a model takes seconds, and so does importing what loads it.


def _checkpoint(name: str) -> str:
    if name != "demo" and not Path(name).is_dir():
        raise UserError(f"there is no checkpoint folder {name}.")
    return name


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: --out is the folder to write.")
    return path


def _sampling(field: str) -> Callable[[Any], Any]:
    """A check of one field of `SamplingConfig`."""

    def check(value: Any) -> Any:
        if value is not None:
            SamplingConfig(**{field: value})
        return value

    return check


def pictures(paths: Any) -> Any:
    """Paths of pictures, all of which exist."""
    for path in paths if isinstance(paths, list | tuple) else [paths] if paths else []:
        if not Path(path).is_file():
            raise UserError(f"there is no image file {path}.")
    return paths


Checkpoint = Annotated[
    str,
    typer.Argument(callback=_checkpoint, help="A Liquid checkpoint folder, or 'demo' for the model that ships."),
]
Out = Annotated[Path, typer.Option("--out", "-o", callback=_folder, help="The folder to write.")]
Recipe = Annotated[Path, typer.Argument(help="A YAML recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key=value or key.sub=value.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in that folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; by default the best there is.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default what the device is good at.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes the result repeatable.")]
Size = Annotated[Any, typer.Option(metavar="WxH", parser=parse_size, help="Pixels; by default the model's own.")]
Tokenizer = Annotated[
    Path, typer.Option("--image-tokenizer", "-t", help="Folder of an image tokenizer, or of a checkpoint; or 'demo'.")
]
MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(callback=_sampling("temperature"), help="Of the sampling; lower is safer.")]
TopK = Annotated[
    int, typer.Option(callback=_sampling("top_k"), help="Choose among that many likeliest tokens; 1 is greedy.")
]
TopP = Annotated[
    float,
    typer.Option(
        callback=_sampling("top_p"), help="Choose among the likeliest tokens that hold this much probability."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        callback=_sampling("guidance_scale"),
        help="How strongly pictures follow the prompt; 1: none, and faster. By default what suits the model.",
    ),
]
