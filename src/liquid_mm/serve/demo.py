"""The page at `/`: create, understand, chat and compare in a browser, on the same service as the API.

Every handler is an asynchronous generator over a job's pieces: what it yields is what the page shows meanwhile. When
the visitor leaves, the generator is closed, and the job with it. Nothing is loaded from anywhere but this server.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.routing import Mount

from liquid_mm.errors import UserError
from liquid_mm.serve.errors import Refused
from liquid_mm.serve.job import Job, Picture, Preview, TextPiece
from liquid_mm.serve.limits import Keys
from liquid_mm.serve.service import DRAWING, Service

PICTURES = 4
PREVIEWS = 8
KEPT = 48
"""Pictures a visitor's gallery holds."""

STYLES = {
    "as described": "",
    "photograph": ", a photograph",
    "watercolour": ", a watercolour painting",
    "pixel art": ", pixel art",
    "pencil sketch": ", a pencil sketch",
    "3D render": ", a 3D render",
}
IDEAS = ["a red apple", "a cat face", "a rocket", "a house", "a butterfly"]
QUESTIONS = ["What is in this picture?", "Which colours does it have?"]
GUIDANCES = (1.0, 3.0, 7.0, 12.0)

Handler = Callable[..., AsyncGenerator[Any, None]]


def mount_page(app: FastAPI, service: Service, keys: Keys) -> None:
    """Put the page at `/` of `app`, behind a login with any name and an API key where keys are asked for."""
    gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        auth=(lambda _, password: keys.name(password) is not None) if keys else None,
        auth_message="Any user name; the password is an API key of this server." if keys else None,
        max_file_size=service.settings.max_body_bytes,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=["gradio"],
        run_history=False,
        show_error=False,
        ssr_mode=False,
    )
    mounted = next(route.app for route in app.routes if isinstance(route, Mount) and hasattr(route.app, "stop_event"))
    # Browsers hold a connection open, which would keep the server from ending.
    service.on_drain.append(mounted.stop_event.set)


def build_page(service: Service) -> gr.Blocks:
    """The page's four tabs, not yet mounted anywhere."""
    # Files of visitors are deleted within two hours.
    page = gr.Blocks(title="Liquid", analytics_enabled=False, delete_cache=(3600, 3600))
    with page:
        gr.Markdown("# Liquid\nOne language model that reads, writes, sees and draws.")
        with gr.Tab("Create"):
            _create_tab(service)
        with gr.Tab("Understand"):
            _understand_tab(service)
        with gr.Tab("Chat"):
            _chat_tab(service)
        with gr.Tab("Compare"):
            _compare_tab(service)
    page.queue(max_size=service.settings.max_queue, default_concurrency_limit=None)
    return page


def _create_tab(service: Service) -> None:
    @_telling
    async def create(
        prompt: str, style: str, size: str, guidance: float, seed: float | None, gallery: list[tuple[str | None, str]]
    ) -> AsyncGenerator[Any, None]:
        sampling = dataclasses.replace(DRAWING, guidance_scale=guidance)
        asked = _needed(prompt) + STYLES[style]
        pixels = _sizes(service)[size]
        job = await service.draw(asked, n=PICTURES, size=pixels, seed=_seed(seed), sampling=sampling, previews=PREVIEWS)
        shown: list[str | None] = [None] * PICTURES
        async with aclosing(_pieces(job)) as pieces:
            async for index, piece in pieces:
                if isinstance(piece, Preview | Picture):
                    shown[index] = await _file(service, piece.image)
                    yield *shown, gallery, gr.skip()
        captions = [f"{asked} · {size} · guidance {guidance:g} · seed {seed}" for seed in job.seeds]
        gallery = [*zip(shown, captions, strict=True), *gallery][:KEPT]
        yield *shown, gallery, gallery

    kept = gr.State([])
    with gr.Row():
        prompt = gr.Textbox(label="What to draw", placeholder="a red apple", scale=4, autofocus=True)
        button = gr.Button("Draw", variant="primary", scale=1)
    with gr.Row():
        style = gr.Dropdown(list(STYLES), label="Style")
        size = gr.Dropdown(list(_sizes(service)), label="Size")
        guidance = gr.Slider(1, 15, DRAWING.guidance_scale, step=0.5, label="Guidance")
        seed = gr.Number(None, label="Seed", info="Empty: a new one", precision=0, minimum=0)
    shown = _pictures()
    gr.Examples(IDEAS, prompt)
    gallery = gr.Gallery(label="Drawn so far", columns=4, format="png", buttons=["download", "fullscreen"])
    inputs, outputs = [prompt, style, size, guidance, seed, kept], [*shown, kept, gallery]
    gr.on([button.click, prompt.submit], create, inputs, outputs, api_name="create")


def _understand_tab(service: Service) -> None:
    @_telling
    async def understand(file: str | None, question: str) -> AsyncGenerator[Any, None]:
        if file is None:
            raise UserError("drop a picture first.")
        content = [{"type": "image", "image": await _open(service, file)}]
        content += [{"type": "text", "text": question}] if question.strip() else []
        job = await service.chat([{"role": "user", "content": content}], max_tokens=_tokens(service), max_images=0)
        answer = ""
        async with aclosing(_pieces(job)) as pieces:
            async for _, piece in pieces:
                answer += piece.text if isinstance(piece, TextPiece) else ""
                yield answer.strip()

    with gr.Row():
        picture = gr.Image(label="A picture", type="filepath", image_mode=None, sources=["upload", "clipboard"])
        with gr.Column():
            question = gr.Textbox(label="Question", info="Empty: a description")
            button = gr.Button("Ask", variant="primary")
            answer = gr.Textbox(label="Answer", lines=4, buttons=["copy"])
            gr.Examples(QUESTIONS, question)
    gr.on([button.click, question.submit], understand, [picture, question], answer, api_name="understand")


def _chat_tab(service: Service) -> None:
    @_telling
    async def say(
        message: dict[str, Any], told: list[dict[str, Any]], shown: list[dict[str, Any]]
    ) -> AsyncGenerator[Any, None]:
        files, text = message.get("files") or [], message.get("text") or ""
        content = [{"type": "image", "image": await _open(service, file)} for file in files]
        content += [{"type": "text", "text": text}] if text.strip() else []
        if not content:
            raise UserError("say something, or add a picture.")
        told = [*told, {"role": "user", "content": content}]
        shown = [*shown, {"role": "user", "content": [*({"path": file} for file in files), *([text] if text else [])]}]
        job = await service.chat(told, max_tokens=_tokens(service), previews=PREVIEWS)
        parts: list[dict[str, Any]] = []
        seen: list[str | dict[str, str]] = []
        async with aclosing(_pieces(job)) as pieces:
            async for _, piece in pieces:
                growing: list[dict[str, str]] = []
                match piece:
                    case TextPiece(more) if parts and parts[-1]["type"] == "text":
                        parts[-1]["text"] += more
                        seen[-1] = parts[-1]["text"]
                    case TextPiece(more):
                        parts.append({"type": "text", "text": more})
                        seen.append(more)
                    case Picture(image=image):
                        parts.append({"type": "image", "image": piece})
                        seen.append({"path": await _file(service, image)})
                    case Preview(image=image):
                        growing = [{"path": await _file(service, image)}]
                yield empty, told, [*shown, {"role": "assistant", "content": [*seen, *growing] or ["…"]}]
        told = [*told, {"role": "assistant", "content": parts}]
        yield empty, told, [*shown, {"role": "assistant", "content": seen or ["(no reply)"]}]

    empty = {"text": "", "files": []}
    told = gr.State([])
    chat = gr.Chatbot(label="Conversation", height="60vh", allow_tags=False, feedback_options=None)
    box = gr.MultimodalTextbox(
        label="Say something", placeholder="Draw a red apple.", file_types=["image"], file_count="multiple"
    )
    box.submit(say, [box, told, chat], [box, told, chat], api_name="chat")
    chat.clear(list, None, told, api_visibility="private")


def _compare_tab(service: Service) -> None:
    @_telling
    async def compare(prompt: str, by: str, guidance: float, seed: float) -> AsyncGenerator[Any, None]:
        prompt, first = _needed(prompt), _seed(seed) or 0
        settings = [(g, first) for g in GUIDANCES] if by == "guidance" else [(guidance, first + i) for i in range(4)]
        jobs: list[Job] = []
        try:
            for scale, number in settings:
                sampling = dataclasses.replace(DRAWING, guidance_scale=scale)
                jobs.append(await service.draw(prompt, seed=number, sampling=sampling, previews=PREVIEWS))
            yield [gr.Image(None, label=f"guidance {scale:g}, seed {number}") for scale, number in settings]
            shown: list[str | None] = [None] * PICTURES
            async with aclosing(_together(jobs)) as pieces:
                async for index, piece in pieces:
                    if isinstance(piece, Preview | Picture):
                        shown[index] = await _file(service, piece.image)
                        yield shown
        finally:
            for job in jobs:
                job.close()

    with gr.Row():
        prompt = gr.Textbox(label="What to draw", placeholder="a red apple", scale=4)
        button = gr.Button("Compare", variant="primary", scale=1)
    with gr.Row():
        by = gr.Radio(["guidance", "seed"], value="guidance", label="What differs")
        guidance = gr.Slider(1, 15, DRAWING.guidance_scale, step=0.5, label="Guidance, where seeds differ")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    shown = _pictures()
    gr.Examples(IDEAS, prompt)
    gr.on([button.click, prompt.submit], compare, [prompt, by, guidance, seed], shown, api_name="compare")


def _pictures() -> list[gr.Image]:
    with gr.Row():
        return [
            gr.Image(
                label=f"Picture {number + 1}",
                format="png",
                interactive=False,
                min_width=140,
                buttons=["download", "fullscreen"],
            )
            for number in range(PICTURES)
        ]


def _telling(handler: Handler) -> Handler:
    """Show mistakes and refusals to the visitor; everything else is a bug, which stays in the log."""

    @functools.wraps(handler)
    async def telling(*arguments: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(handler(*arguments)) as shown:
                async for value in shown:
                    yield value
        except (UserError, Refused) as error:
            raise gr.Error(str(error)) from error

    return telling


async def _pieces(job: Job) -> AsyncGenerator[tuple[int, Any], None]:
    try:
        async for index, piece in job:
            yield index, piece
    finally:
        job.close()


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


def _sizes(service: Service) -> dict[str, tuple[int, int]]:
    """The model's own size and, of the same step, a wide and a tall one."""
    width, height = service.model.vocabulary.resolution
    step = service.model.vocabulary.downsampling
    more = [(width * 3 // 2 // step * step, height), (width, height * 3 // 2 // step * step)]
    return {f"{w} × {h}": (w, h) for w, h in [(width, height), *more]}


def _tokens(service: Service) -> int:
    return min(512, service.settings.max_output_tokens)


def _needed(prompt: str) -> str:
    if not prompt.strip():
        raise UserError("say what to draw.")
    return prompt.strip()


def _seed(seed: float | None) -> int | None:
    return None if seed is None else int(seed)


async def _open(service: Service, file: str) -> Image.Image:
    image: Image.Image = await service.work(service.pictures.from_bytes, Path(file).read_bytes())
    return image


async def _file(service: Service, image: Image.Image) -> str:
    """Where the page finds a picture; written once, for gradio would do so at every update, under its readers."""
    path: str = await service.work(save_pil_to_cache, image, get_upload_folder(), "picture", "png")
    return path
