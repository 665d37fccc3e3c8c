"""The folder that long work fills: pictures, a line for each in the manifest, and what they were drawn with.

    OUT/            000001_a-red-apple_seed0.png   000002_two-cats_seed7.png   …      numbered by line
                    manifest.jsonl    one line for each picture written: image, prompt, seed, size, settings, model
                    job.json          settings and model: a folder holds pictures of one kind

A picture is written first, then its line: what the manifest lists is there, whenever the writer is stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liquid_mm.config import Config, changed_keys
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file, disk_errors, read_json, sole_writer, write_json
from liquid_mm.generate.files import file_name
from liquid_mm.generate.sampling_config import SamplingConfig

JOB, MANIFEST = "job.json", "manifest.jsonl"


class Settings(Config):
    """What is the same for every picture of a job.

    Args:
        guidance_scale, temperature, top_k, top_p: as in `LiquidModel.generate_images`.
        size: (width, height) of pictures whose line states none; None is the model's own.
        number: pictures for each line; the n-th has the line's seed + n.
        seed: of lines that state none.
    """

    guidance_scale: float = 7.0
    temperature: float = 0.99
    top_k: int | None = 4096
    top_p: float = 0.96
    size: tuple[int, int] | None = None
    number: int = 1
    seed: int = 0

    @property
    def sampling(self) -> SamplingConfig:
        """How codes are sampled."""
        return SamplingConfig(self.temperature, self.top_k, self.top_p, self.guidance_scale)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One picture to draw: `line` (from 1) of the file asks for it; `size` is None for the model's own."""

    line: int
    prompt: str
    seed: int
    size: tuple[int, int] | None

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.line:06d}_{file_name(self.prompt, self.seed)}"


class Folder:
    """A folder being filled, by one process.

    Args:
        out: the folder; one that exists already is gone on with.
        settings: of all pictures.

    Raises:
        UserError: the folder was begun with other settings.
    """

    def __init__(self, out: Path, settings: Settings) -> None:
        self._out = out
        self._record: dict[str, Any] = {"settings": settings.model_dump(mode="json")}
        if not (out / JOB).exists():
            return
        before = Settings.model_validate(read_json(out / JOB)["settings"])
        if changed := changed_keys(before, settings):
            names = ", ".join(f"{key} {getattr(before, key)}, not {getattr(settings, key)}" for key in changed)
            raise UserError(f"{out} was begun with {names}: use the same settings or another folder.")

    def begin(self, model: str) -> None:
        """Say which model draws, by its fingerprint, before the first picture is added; more than once if need be.

        Raises:
            UserError: the folder was begun with another one.
        """
        if not (self._out / JOB).exists():
            write_json(self._out / JOB, {"model": model, **self._record})
        if read_json(self._out / JOB)["model"] != model:
            raise UserError(f"{self._out} was begun with another model: choose another folder.")
        self._record["model"] = model

    @contextmanager
    def writing(self, model: str) -> Iterator[set[Wanted]]:
        """Inside, this process alone adds pictures; yields what is there already.

        Raises:
            UserError: another process writes the folder, or it was begun with another model.
        """
        with sole_writer(self._out):
            self.begin(model)
            lines, rest = self._lines()
            if rest:
                # The last line was cut off while it was written: its picture is drawn again.
                with atomic_file(self._out / MANIFEST) as part:
                    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            yield self.written()

    def written(self) -> set[Wanted]:
        """What the manifest lists."""
        found = map(json.loads, self._lines()[0])
        return {Wanted(f["line"], f["prompt"], f["seed"], tuple(f["size"]) if f["size"] else None) for f in found}

    def _lines(self) -> tuple[list[str], str]:
        """The manifest's lines, and what there is of another one."""
        path = self._out / MANIFEST
        if not path.exists():
            return [], ""
        # Not `splitlines`: a prompt may hold characters that Unicode counts as line ends.
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        return lines, rest

    def add(self, wanted: Wanted, content: bytes) -> None:
        """Write a picture, as `files.png` encodes it, then its line."""
        with atomic_file(self._out / wanted.name) as part:
            part.write_bytes(content)
        line = {"image": wanted.name, **dataclasses.asdict(wanted), **self._record}
        path = self._out / MANIFEST
        with disk_errors(path), path.open("a", encoding="utf-8") as manifest:
            manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
