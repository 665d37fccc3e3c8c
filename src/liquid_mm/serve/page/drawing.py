"""The tabs in which pictures are drawn: Create and Compare."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from liquid_mm.errors import UserError
from liquid_mm.record import NOTHING, Example
from liquid_mm.serve.chance import some_seed
from liquid_mm.serve.job import Job, Picture, Preview
from liquid_mm.serve.page.handlers import PREVIEWS, pieces_of, tells_mistakes, visitor, written
from liquid_mm.serve.service import Service

PICTURES = 4
KEPT = 48
"""Pictures a visitor's gallery holds."""

AS_DESCRIBED = "as described"
STYLES = {
    "photograph": ", a photograph",
    "watercolour": ", a watercolour painting",
    "pixel art": ", pixel art",
    "pencil sketch": ", a pencil sketch",
    "3D render": ", a 3D render",
}
"""For a model that does not say which styles it was taught."""
IDEAS = tuple(Example(prompt=prompt) for prompt in ("a red apple", "a cat face", "a rocket", "a house", "a butterfly"))
GUIDANCES = (1.0, 3.0, 7.0, 12.0)


def create_tab(service: Service) -> None:
    """A description becomes four pictures, which are seen growing and kept in a gallery with their settings."""

    @tells_mistakes
    async def create(
        prompt: str,
        style: str,
        size: str,
        guidance: float,
        seed: str,
        gallery: list[tuple[str | None, str]],
        http: gr.Request,
    ) -> AsyncGenerator[Any, None]:
        sampling = dataclasses.replace(service.drawing, guidance_scale=guidance)
        asked = _needed(prompt) + styles[style]
        job = await service.draw(
            asked,
            n=PICTURES,
            size=sizes[size],
            seed=_seed(seed),
            sampling=sampling,
            key=visitor(http),
            previews=PREVIEWS,
        )
        shown: list[str | None] = [None] * PICTURES
        async with aclosing(pieces_of(job)) as pieces:
            async for index, piece in pieces:
                if isinstance(piece, Preview | Picture):
                    shown[index] = await written(service, piece.image)
                    yield *shown, gallery, gr.skip()
        captions = [f"{asked} · {size} · guidance {guidance:g} · seed {seed}" for seed in job.seeds]
        gallery = [*zip(shown, captions, strict=True), *gallery][:KEPT]
        yield *shown, gallery, gallery

    styles, sizes = _styles(service), _sizes(service)
    kept = gr.State([])
    with gr.Row():
        prompt = gr.Textbox(label="What to draw", placeholder="a red apple", scale=4, autofocus=True)
        button = gr.Button("Draw", variant="primary", scale=1)
    with gr.Row():
        style = gr.Dropdown(list(styles), label="Style")
        size = gr.Dropdown(list(sizes), label="Size")
        guidance = gr.Slider(1, 15, service.drawing.guidance_scale, step=0.5, label="Guidance")
        # No number field: an empty one shows 0, and sends it.
        seed = gr.Textbox(label="Seed", info="Empty: a new one", max_lines=1)
    shown = _pictures()
    gr.Examples(_ideas(service), [prompt, style, size])
    gallery = gr.Gallery(
        label="Drawn so far", columns=4, format="png", buttons=["download", "fullscreen"], elem_classes="kept"
    )
    inputs, outputs = [prompt, style, size, guidance, seed, kept], [*shown, kept, gallery]
    gr.on([button.click, prompt.submit], create, inputs, outputs, api_name="create")


def compare_tab(service: Service) -> None:
    """One description at four guidances, or with four seeds."""

    @tells_mistakes
    async def compare(prompt: str, by: str, guidance: float, seed: str, http: gr.Request) -> AsyncGenerator[Any, None]:
        prompt, first = _needed(prompt), _seed(seed)
        first = some_seed() if first is None else first
        settings = [(g, first) for g in GUIDANCES] if by == "guidance" else [(guidance, first + i) for i in range(4)]
        jobs: list[Job] = []
        try:
            for scale, number in settings:
                sampling = dataclasses.replace(service.drawing, guidance_scale=scale)
                jobs.append(
                    await service.draw(prompt, seed=number, sampling=sampling, key=visitor(http), previews=PREVIEWS)
                )
            yield [
                gr.Image(None, label=f"guidance {scale:g}" if by == "guidance" else f"seed {number}")
                for scale, number in settings
            ]
            shown: list[str | None] = [None] * PICTURES
            async with aclosing(_together(jobs)) as pieces:
                async for index, piece in pieces:
                    if isinstance(piece, Preview | Picture):
                        shown[index] = await written(service, piece.image)
                        yield shown
        finally:
            for job in jobs:
                job.close()

    with gr.Row():
        prompt = gr.Textbox(label="What to draw", placeholder="a red apple", scale=4)
        button = gr.Button("Compare", variant="primary", scale=1)
    with gr.Row():
        by = gr.Radio(["guidance", "seed"], value="guidance", label="What differs")
        guidance = gr.Slider(1, 15, service.drawing.guidance_scale, step=0.5, label="Guidance, where seeds differ")
        seed = gr.Textbox("0", label="Seed", info="Empty: a new one", max_lines=1)
    shown = _pictures()
    gr.Examples([idea for idea, _, _ in _ideas(service)], prompt)
    gr.on([button.click, prompt.submit], compare, [prompt, by, guidance, seed], shown, api_name="compare")


def _pictures() -> list[gr.Image]:
    with gr.Row():
        return [
            gr.Image(
                label=f"Picture {number + 1}",
                format="png",
                interactive=False,
                height="16em",
                elem_classes="picture",
                min_width=140,
                buttons=["download", "fullscreen"],
            )
            for number in range(PICTURES)
        ]


async def _together(jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Any], None]:
    """The pieces of several jobs of one reply each, as they come, with the number of their job."""
    pieces: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def pump(number: int, job: Job) -> None:
        async for _, piece in job:
            pieces.put_nowait((number, piece))

    pumps = [asyncio.create_task(pump(number, job)) for number, job in enumerate(jobs)]
    everything = asyncio.gather(*pumps)
    try:
        while not (everything.done() and pieces.empty()):
            piece = asyncio.create_task(pieces.get())
            awaited: set[asyncio.Future[Any]] = {piece, everything}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if piece.done():
                yield piece.result()
            else:
                piece.cancel()
        everything.result()
    finally:
        everything.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def _styles(service: Service) -> dict[str, str]:
    """What a style is called, and what is added to the prompt for it."""
    taught = service.model.checkpoint.taught
    return {AS_DESCRIBED: "", **(STYLES if taught == NOTHING else taught.styles)}


def _ideas(service: Service) -> list[list[str]]:
    """What to draw, in which style and size, as the fields above have them."""
    own = service.model.vocabulary.resolution
    examples = service.model.checkpoint.taught.examples or IDEAS
    return [[e.prompt, e.style or AS_DESCRIBED, _label(e.size or own)] for e in examples]


def _sizes(service: Service) -> dict[str, tuple[int, int]]:
    """The model's own size and those it was taught; where nobody said, a wide and a tall one of the same step."""
    width, height = service.model.vocabulary.resolution
    step = service.model.vocabulary.downsampling
    guessed = [(width * 3 // 2 // step * step, height), (width, height * 3 // 2 // step * step)]
    taught = service.model.checkpoint.taught
    more = guessed if taught == NOTHING else taught.sizes
    return {_label(size): size for size in [(width, height), *more]}


def _label(size: tuple[int, int]) -> str:
    return "{} × {}".format(*size)


def _needed(prompt: str) -> str:
    if not prompt.strip():
        raise UserError("say what to draw.")
    return prompt.strip()


def _seed(text: str | None) -> int | None:
    text = (text or "").strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 18):
        raise UserError(f"the seed is {text[:30]!r}: it must be a whole number from 0 on, or empty for a new one.")
    return int(text) if text else None
