"""`liquid.json`: what a checkpoint folder says of itself, read without loading a weight.

{"format": 1, "vocabulary": {…}, "image_tokenizer": "image_tokenizer", "image_tokenizer_fingerprint": "…",
 "guidance_scale": 1.0,                          where it is not the released model's
 "taught": {"styles": {"3D": ", 3D style"}, …},  where it is known
 "base": {"source": "…", "sha256": "…"}}         of an adapter
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from liquid_mm.config import Config
from liquid_mm.errors import UserError
from liquid_mm.files import read_json

FORMAT = 1
RECORD = "liquid.json"
GUIDANCE = 7.0  # of the released model


Pixels = Annotated[int, Field(ge=1)]
Size = tuple[Pixels, Pixels]


class Example(Config):
    """A picture to try: what to ask for, in which of the styles (None: as it is), in which size (None: its own)."""

    prompt: str
    style: str | None = None
    size: Size | None = None


class Taught(Config):
    """What a model was taught, as a page for people offers it; empty where nobody said.

    Args:
        styles: what a style is called, and what a prompt says of it: `{"3D": ", 3D style"}`.
        sizes: (width, height) in pixels that it was taught besides its own resolution.
        examples: of pictures it draws well, of these styles and sizes.
        questions: about a picture, that it answers.
    """

    styles: dict[str, str] = Field(default_factory=dict)
    sizes: tuple[Size, ...] = ()
    examples: tuple[Example, ...] = ()
    questions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _examples_are_of_these(self) -> Taught:
        for example in self.examples:
            if example.style is not None and example.style not in self.styles:
                raise ValueError(
                    f"the example {example.prompt!r} is of style {example.style!r}, which is not in styles."
                )
            if example.size is not None and example.size not in self.sizes:
                raise ValueError(f"the example {example.prompt!r} is of size {example.size}, which is not in sizes.")
        return self


NOTHING = Taught()


def stored_guidance(path: str | Path) -> float:
    """`Checkpoint.guidance_scale` of a folder, or of "demo".

    Raises:
        UserError: the folder is missing or of another layout.
    """
    return guidance_of(read_record(resolve(path)))


def stored_base(path: str | Path) -> str:
    """What the adapter in a folder, or "demo", stands on, as `liquid extend` takes it.

    Raises:
        UserError: the folder is missing or of another layout, or holds whole weights.
    """
    record = read_record(resolve(path))
    if "base" not in record:
        raise UserError(f"{path} holds whole weights and no adapter.")
    return str(record["base"]["source"])


def guidance_of(record: dict[str, Any]) -> float:
    """The guidance a record names, or the released model's."""
    return float(record.get("guidance_scale", GUIDANCE))


def taught_of(record: dict[str, Any], folder: Path) -> Taught:
    """What the record in `folder` says its model was taught.

    Raises:
        UserError: it says it in another form.
    """
    try:
        return Taught.model_validate(record.get("taught", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("taught", *first["loc"])))
        raise UserError(f"{folder / RECORD}: {where}: {first['msg']}.") from error


def resolve(path: str | Path) -> Path:
    """The folder that `path` names, "demo" being the one inside the package.

    Raises:
        UserError: there is no demo model in this installation.
    """
    if str(path) != "demo":
        return Path(path)
    folder = Path(str(importlib.resources.files("liquid_mm") / "demo"))
    if not (folder / RECORD).is_file():
        raise UserError("this installation has no demo model: give the path of a checkpoint folder instead.")
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """The record in a checkpoint folder.

    Raises:
        UserError: there is none, or it lacks something or was written by another version.
    """
    if not folder.is_dir():
        raise UserError(f"there is no checkpoint folder {folder}.")
    if not (folder / RECORD).is_file():
        within = [name for name in ("final", "adapter") if (folder / name / RECORD).is_file()]
        if (folder / "config.json").is_file():
            hint = (
                "it is a plain language model: turn a released Liquid model into a checkpoint with `liquid import`, "
                "any other with `liquid extend`."
            )
        elif within:
            hint = f"it is a training run, whose result is {' or '.join(str(folder / name) for name in within)}."
        elif (folder / "config.yaml").is_file():  # what a training run writes first
            hint = "it is a training run that has not ended: go on with it by `liquid train … --resume`."
        else:
            hint = "it is no checkpoint of this program."
        raise UserError(f"{folder} has no {RECORD}: {hint}")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{folder / RECORD} is not of format {FORMAT}: it was written by another version of liquid-mm.")
    needed = ("vocabulary", "image_tokenizer", "image_tokenizer_fingerprint")
    if missing := [key for key in needed if key not in record]:
        raise UserError(f"{folder / RECORD} lacks {', '.join(missing)}.")
    return record
