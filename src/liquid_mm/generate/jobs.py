"""Long work: a file of prompts to a folder of pictures, each written as it finishes, so that stopping loses little.

    prompts.jsonl   {"prompt": "a red apple"}
                    {"prompt": "two cats", "seed": 7, "size": [512, 256]}

A picture is a function of the model, the job's settings and a `Wanted`: prompt, seed and size; nothing else decides it,
neither its neighbours nor when it is drawn. So a second call draws what the folder's manifest lacks (`folder`), and
work can be divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tqdm import tqdm

from liquid_mm.config import Config
from liquid_mm.errors import UserError
from liquid_mm.generate.engine import context_length
from liquid_mm.generate.files import advance, png
from liquid_mm.generate.folder import Folder, Settings, Wanted
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import OnEvent, Request, Result


class Line(Config):
    """A line of the file of prompts."""

    prompt: str
    seed: int | None = None
    size: tuple[int, int] | None = None


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


def request_for(model: LiquidModel, wanted: Wanted, settings: Settings) -> Request:
    """What draws a picture.

    Raises:
        UserError: it cannot be drawn: its size or seed is not possible, or it exceeds the model's context.
    """
    request = model.prompting.image(wanted.prompt, wanted.seed, settings.sampling, wanted.size)
    request.check_fits(context_length(model.checkpoint.llm))
    return request


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
        self._model = model
        self.wanted = read_prompts(prompts, settings)
        # All are checked before the first is drawn, rather than hours later.
        requests = {picture: request_for(model, picture, settings) for picture in self.wanted}
        self._folder = Folder(out, settings)
        self._folder.begin(model.fingerprint)
        done = self._folder.written()
        self.left = {picture: request for picture, request in requests.items() if picture not in done}

    @property
    def codes(self) -> int:
        """Codes left to draw."""
        return sum(image.grid[0] * image.grid[1] for request in self.left.values() if (image := request.image))

    def run(self, on_event: OnEvent | None = None) -> None:
        """Draw what is left; `on_event` is called for every code.

        After `KeyboardInterrupt`, as after an error, the pictures that are complete are still written.

        Raises:
            UserError: another process writes the folder, or the model's numbers overflow.
        """
        with self._folder.writing(self._model.fingerprint) as present:
            self._run([(wanted, request) for wanted, request in self.left.items() if wanted not in present], on_event)

    def _run(self, left: Sequence[tuple[Wanted, Request]], on_event: OnEvent | None) -> None:
        engine = self._model.engine
        waiting = iter(left)
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
                    done = {wanted: future for wanted, future in drawing.items() if future.done()}
                    drawing = {wanted: future for wanted, future in drawing.items() if wanted not in done}
                    complete += [(w, future.result().codes) for w, future in done.items() if not future.exception()]
                    for future in done.values():
                        future.result()  # raises what went wrong, after those that did not are kept
                    if complete and (writing is None or writing.done()):
                        if writing:
                            writing.result()
                        writing, complete = writer.submit(self._write, complete), []
            finally:
                for future in drawing.values():
                    engine.cancel(future)
                try:
                    if writing:
                        writing.result()
                finally:
                    self._write(complete)

    def _write(self, complete: Sequence[Drawn]) -> None:
        """Decode pictures together and write each, then its line."""
        images = self._model.decode_images([codes for _, codes in complete])
        for (wanted, codes), image in zip(complete, images, strict=True):
            self._folder.add(wanted, png(GeneratedImage(image, codes, wanted.prompt, wanted.seed)))


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
