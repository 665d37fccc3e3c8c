"""Long work: a file of prompts to a folder of pictures, each written as it finishes, so that stopping loses little.

    prompts.jsonl   {"prompt": "a red apple"}
                    {"prompt": "two cats", "seed": 7, "size": [512, 256]}
    OUT/            000001_a-red-apple_seed0.png   000002_two-cats_seed7.png   …      numbered by line
                    manifest.jsonl    one line for each picture written: image, prompt, seed, size, settings, model
                    job.json          settings and model, which have to be the same when it is gone on with

A picture is a function of the model, the job's settings and a `Wanted`: prompt, seed and size; nothing else decides it,
neither its neighbours nor when it is drawn. So a second call draws what the manifest lacks, and work can be divided.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tqdm import tqdm

from liquid_mm.config import Config, changed_keys
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file, disk_errors, read_json, write_json
from liquid_mm.generate.engine import context_length
from liquid_mm.generate.files import advance, file_name, save_picture
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import OnEvent, Request, Result
from liquid_mm.generate.sampling import SamplingConfig

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


class Line(Config):
    """A line of the file of prompts."""

    prompt: str
    seed: int | None = None
    size: tuple[int, int] | None = None


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

    def request(self, model: LiquidModel, settings: Settings) -> Request:
        """What draws it."""
        return model.prompting.image(self.prompt, self.seed, settings.sampling, self.size)


def read_prompts(path: Path, settings: Settings) -> list[Wanted]:
    """The pictures a file of prompts asks for.

    Raises:
        UserError: the file is missing, or a line is not `{"prompt": …}` with an optional "seed" and "size".
    """
    if settings.number < 1:
        raise UserError(f"images_per_prompt is {settings.number}: it must be 1 or more.")
    try:
        # Not `splitlines`: a prompt may hold characters that Unicode counts as line ends.
        texts = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}.") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a UTF-8 text file.") from error
    wanted = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = Line.model_validate_json(text)
        except ValidationError as error:
            what = error.errors()[0]
            where = ".".join(map(str, what["loc"]))
            raise UserError(f"{path}, line {number}: {f'{where}: ' if where else ''}{what['msg']}.") from error
        first = settings.seed if line.seed is None else line.seed
        size = line.size or settings.size
        wanted += [Wanted(number, line.prompt, first + n, size) for n in range(settings.number)]
    return wanted


Drawn = tuple[Wanted, NDArray[np.int64]]


class Job:
    """A folder being filled.

    Args:
        model: draws.
        prompts: the file of prompts.
        out: the folder; one that exists already is gone on with.
        settings: of all pictures.

    Raises:
        UserError: the folder was begun with other settings or another model, or a line asks for what cannot be drawn.
    """

    def __init__(self, model: LiquidModel, prompts: Path, out: Path, settings: Settings) -> None:
        self._model, self._out = model, out
        self.wanted = read_prompts(prompts, settings)
        # Everything is checked before the first picture rather than hours later.
        requests = {picture: picture.request(model, settings) for picture in self.wanted}
        for request in requests.values():
            request.check_fits(context_length(model.checkpoint.llm))
        self._begin(settings)
        done = set(self._written())
        self.left = {picture: request for picture, request in requests.items() if picture not in done}

    @property
    def codes(self) -> int:
        """Codes left to draw."""
        return sum(image.grid[0] * image.grid[1] for request in self.left.values() if (image := request.image))

    def run(self, on_event: OnEvent | None = None) -> None:
        """Draw what is left; `on_event` is called for every code.

        After `KeyboardInterrupt`, as after an error, the pictures that are complete are still written.
        """
        engine = self._model.engine
        waiting = iter(list(self.left.items()))
        drawing: dict[Wanted, Future[Result]] = {}
        complete: list[Drawn] = []
        writing: Future[None] | None = None
        # Pixels are made beside the steps, all together that were completed while the last ones were made.
        with ThreadPoolExecutor(1) as writer:
            try:
                while True:
                    # A few more than the engine runs, so that a row never waits for a request.
                    while len(drawing) < 2 * engine.max_batch and (following := next(waiting, None)):
                        drawing[following[0]] = engine.submit(following[1], on_event)
                    if not drawing:
                        break
                    engine.step()
                    for wanted in [wanted for wanted, future in drawing.items() if future.done()]:
                        complete.append((wanted, drawing.pop(wanted).result().codes))
                    if complete and (writing is None or writing.done()):
                        if writing:
                            writing.result()
                        writing, complete = writer.submit(self._write, complete), []
            finally:
                for future in drawing.values():
                    engine.cancel(future)
                if writing:
                    writing.result()
                self._write(complete)

    def _begin(self, settings: Settings) -> None:
        self._record = {"model": self._model.fingerprint, "settings": settings.model_dump(mode="json")}
        path = self._out / JOB
        if not path.exists():
            write_json(path, self._record)
            return
        begun = read_json(path)
        if begun["model"] != self._record["model"]:
            raise UserError(f"{self._out} was begun with another model: choose another folder.")
        before = Settings.model_validate(begun["settings"])
        if changed := changed_keys(before, settings):
            names = ", ".join(f"{key} {getattr(before, key)}, not {getattr(settings, key)}" for key in changed)
            raise UserError(f"{self._out} was begun with {names}: use the same settings or another folder.")

    def _written(self) -> Iterator[Wanted]:
        """What the manifest lists."""
        path = self._out / MANIFEST
        if not path.exists():
            return
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        if rest:
            # The last line was cut off while it was written: its picture is drawn again.
            with atomic_file(path) as part:
                part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for line in map(json.loads, lines):
            size = line["size"]
            yield Wanted(line["line"], line["prompt"], line["seed"], tuple(size) if size else None)

    def _write(self, complete: Sequence[Drawn]) -> None:
        """Decode pictures together and write each, then its line."""
        images = self._model.decode_images([codes for _, codes in complete])
        for (wanted, codes), image in zip(complete, images, strict=True):
            save_picture(GeneratedImage(image, codes, wanted.prompt, wanted.seed), self._out / wanted.name)
            line = {"image": wanted.name, **dataclasses.asdict(wanted), **self._record}
            path = self._out / MANIFEST
            with disk_errors(path), path.open("a", encoding="utf-8") as manifest:
                manifest.write(json.dumps(line, ensure_ascii=False) + "\n")


def draw_job(model: LiquidModel, prompts: Path, out: Path, **settings: Any) -> str:
    """Draw what a file of prompts asks for into `out` with a progress bar; says what was done.

    Raises:
        UserError: as `read_prompts` and `Job`.
    """
    if settings.get("guidance_scale") is None:
        settings["guidance_scale"] = model.checkpoint.guidance_scale
    job = Job(model, prompts, out, Settings(**settings))
    with tqdm(total=job.codes, unit="code", desc=f"drawing {len(job.left)} of {len(job.wanted)} pictures") as bar:
        job.run(lambda event: advance(bar, event))
    return f"{out}: {len(job.wanted)} pictures, {len(job.left)} of them new"
