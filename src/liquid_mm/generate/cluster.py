"""Long work on many machines: the same folder as `jobs` fills in one process, its pictures drawn by Ray Data.

    prompts.jsonl ──> windows of pictures ──> one actor per GPU: codes, pixels, PNG ──> this process: file, then line

Only the calling process writes, as windows come back. So there is one writer to the manifest, and a stopped job goes on
as any other, here or on the cluster. The checkpoint must be readable on every machine, by the same path; the folder on
this one alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from liquid_mm.cluster import spread
from liquid_mm.errors import UserError
from liquid_mm.generate.files import png
from liquid_mm.generate.folder import Folder, Settings, Wanted
from liquid_mm.generate.guidance import is_guided
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.jobs import read_prompts, request_for
from liquid_mm.generate.model import LiquidModel, load
from liquid_mm.record import stored_guidance

ROWS = 16
"""Sequences that an actor computes at once, as `LiquidModel`'s default; a window fills them."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The model that draws; see `liquid_mm.load`. An actor puts it where it runs."""

    checkpoint: str
    dtype: str | None = None
    quantization: str | None = None

    def load(self) -> LiquidModel:
        """The model, on this machine."""
        return load(self.checkpoint, dtype=self.dtype, quantization=self.quantization, max_batch=ROWS)


class Drawn(NamedTuple):
    """A window that was drawn: the fingerprint of the model, and the PNG of each picture."""

    model: str
    pictures: list[tuple[Wanted, bytes]]


def draw_on_ray(
    checkpoint: str,
    prompts: Path,
    out: Path,
    *,
    workers: int | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    **settings: Any,
) -> str:
    """`jobs.draw_job` on a cluster, with a progress bar of pictures.

    Args:
        checkpoint: a folder that every machine can read, or "demo".
        prompts: the file of prompts.
        out: the folder; one that exists already is gone on with.
        workers: actors, each with the model; None takes one for each GPU, or for each machine if there is no GPU.
        dtype, quantization: as `liquid_mm.load`.
        settings: see `Settings`; `guidance_scale` None is what suits the checkpoint.

    Raises:
        UserError: as `draw_job`, or Ray is not installed, or machines load different models.
    """
    if settings.get("guidance_scale") is None:
        settings["guidance_scale"] = stored_guidance(checkpoint)
    chosen = Settings(**settings)
    wanted = read_prompts(prompts, chosen)
    # Another machine's working directory is another one.
    source = Source(checkpoint if checkpoint == "demo" else str(Path(checkpoint).absolute()), dtype, quantization)
    folder = Folder(out, chosen)
    done = folder.written()
    left = [picture for picture in wanted if picture not in done]
    # With nothing left to draw, an actor still says whether this is the model that drew it.
    items = windows(left, chosen) or [[]]
    found: Iterator[Drawn] = spread(items, Worker, (source, chosen, wanted), workers=workers)
    models = set()
    present: set[Wanted] | None = None
    with (
        ExitStack() as alone,
        tqdm(total=len(left), unit="picture", desc=f"drawing {len(left)} of {len(wanted)} pictures") as bar,
    ):
        for drawn in found:
            models.add(drawn.model)
            if len(models) > 1:
                raise UserError(
                    f"machines load different models from {checkpoint}: see to it that its files are the same "
                    "everywhere, and say the dtype if the processors differ."
                )
            if present is None:
                present = alone.enter_context(folder.writing(drawn.model))
            for picture, content in drawn.pictures:
                if picture not in present:
                    folder.add(picture, content)
                bar.update()
    return f"{out}: {len(wanted)} pictures, {len(left)} of them new"


def windows(left: Sequence[Wanted], settings: Settings) -> list[list[Wanted]]:
    """`left` in parts that a model draws at once; those of one size together, so that they end together."""
    length = ROWS // (2 if is_guided(settings.sampling.guidance_scale) else 1)
    alike = sorted(left, key=lambda picture: picture.size or settings.size or (0, 0))
    return [alike[start : start + length] for start in range(0, len(alike), length)]


class Worker:
    """An actor: the model, on the device this actor was given.

    Args:
        source: of the model.
        settings: of all pictures.
        wanted: all pictures, each of which is checked before the first is drawn.

    Raises:
        UserError: the model cannot be loaded, or a picture cannot be drawn.
    """

    def __init__(self, source: Source, settings: Settings, wanted: Sequence[Wanted]) -> None:
        self._settings = settings
        self.model = source.load()
        for picture in wanted:
            request_for(self.model, picture, settings)

    def __call__(self, window: Sequence[Wanted]) -> Drawn:
        """Draw a window."""
        results = self.model.engine.run([request_for(self.model, wanted, self._settings) for wanted in window])
        grids = [result.codes for result in results]
        drawn = zip(window, self.model.decode_images(grids), grids, strict=True)
        pictures = [(w, png(GeneratedImage(image, codes, w.prompt, w.seed))) for w, image, codes in drawn]
        return Drawn(self.model.fingerprint, pictures)
