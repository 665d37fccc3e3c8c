"""What the page's handlers share.

Every handler is an asynchronous generator over a job's pieces: what it yields is what the page shows meanwhile. When
the visitor leaves, the generator is closed, and the job with it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.serve.errors import Refused
from liquid_mm.serve.job import Job
from liquid_mm.serve.service import Service

PREVIEWS = 8
"""Times a picture is shown while it grows."""

Handler = Callable[..., AsyncGenerator[Any, None]]


def tells_mistakes(handler: Handler) -> Handler:
    """Show mistakes and refusals to the visitor; everything else is a bug, which stays in the log."""

    @functools.wraps(handler)
    async def telling(*arguments: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(handler(*arguments)) as shown:
                async for value in shown:
                    yield value
        except (UserError, Refused) as error:
            raise gr.Error(str(error), title="That cannot be done", print_exception=False) from error

    return telling


def visitor(http: gr.Request) -> str:
    """Whose replies these are: a window of a browser may have as many under way as an API key."""
    return f"page {http.session_hash}"


async def pieces_of(job: Job) -> AsyncGenerator[tuple[int, Any], None]:
    """The pieces of a job, which ends when nobody takes them any more."""
    try:
        async for index, piece in job:
            yield index, piece
    finally:
        job.close()


async def opened(service: Service, file: str) -> Image.Image:
    """The picture in an uploaded file; `UserError` if there is none that can be read."""
    image: Image.Image = await service.work(service.pictures.from_bytes, Path(file).read_bytes())
    return image


async def written(service: Service, image: Image.Image) -> str:
    """Where the page finds a picture; written once, for gradio would do so at every update, under its readers."""
    path: str = await service.work(save_pil_to_cache, image, get_upload_folder(), "picture", "png")
    return path
