"""/v1/images/generations and /v1/images/edits: pictures drawn, or drawn anew where a mask says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import ValidationError

from liquid_mm.errors import UserError
from liquid_mm.serve.access import SCHEME, Key, TheService, check_model
from liquid_mm.serve.answers import Events, encode, sse, unless_gone
from liquid_mm.serve.job import Job, Picture, Preview
from liquid_mm.serve.protocol import ImageAsk
from liquid_mm.serve.replies import DrawnImage, ImagesAnswer, ImageUsage, now
from liquid_mm.serve.service import Service
from liquid_mm.serve.text_routes import ERRORS

router = APIRouter(prefix="/v1/images", dependencies=[SCHEME], responses=ERRORS)


@router.post("/generations", response_model=ImagesAnswer)
async def generate(ask: ImageAsk, http: Request, service: TheService, key: Key) -> Any:
    """Draw pictures of a description."""
    check_model(service, ask.model)
    job = await service.draw(
        ask.prompt,
        n=ask.n,
        size=ask.pixels(),
        seed=ask.seed,
        sampling=ask.sampling(service.drawing.guidance_scale),
        previews=ask.partial_images if ask.stream else 0,
        key=key,
    )
    return await _answer(ask, http, service, job, "image_generation")


@router.post("/edits", response_model=ImagesAnswer)
async def edit(
    http: Request,
    service: TheService,
    key: Key,
    prompt: Annotated[str, Form(description="Describes the whole picture.")],
    image: Annotated[UploadFile | None, File(description="The picture: PNG, JPEG, WebP or GIF.")] = None,
    images: Annotated[list[UploadFile] | None, File(alias="image[]", description="The same, as a list of one.")] = None,
    mask: Annotated[UploadFile | None, File(description="Of the same size, transparent where to draw.")] = None,
) -> Any:
    """Draw a part of a picture anew: where `mask`, or the picture itself, is transparent.

    Further fields of the form are those of /v1/images/generations.
    """
    sent = [*([image] if image else []), *(images or [])]
    if len(sent) != 1:
        raise UserError(f"{len(sent)} images were sent: an edit is of one.")
    ask = await _form(http)
    check_model(service, ask.model)
    files = [await sent[0].read(), *([await mask.read()] if mask else [])]

    def read() -> tuple[Image.Image, Image.Image]:
        pictures = [service.pictures.from_bytes(file) for file in files]
        return pictures[0], _keep(pictures[-1])

    job = await service.edit(
        read,
        prompt,
        n=ask.n,
        size=ask.pixels(),
        seed=ask.seed,
        sampling=ask.sampling(service.drawing.guidance_scale),
        previews=ask.partial_images if ask.stream else 0,
        key=key,
    )
    return await _answer(ask, http, service, job, "image_edit")


async def _form(http: Request) -> ImageAsk:
    """The fields of a form that are no files."""
    fields = {name: value for name, value in (await http.form()).items() if isinstance(value, str)}
    try:
        return ImageAsk.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _keep(cover: Image.Image) -> Image.Image:
    if not cover.has_transparency_data:
        raise UserError("nothing says what to draw: send a mask, or an image, that is transparent there.")
    return cover.convert("RGBA").getchannel("A")


async def _answer(ask: ImageAsk, http: Request, service: Service, job: Job, event: str) -> Any:
    width, height = ask.pixels() or service.model.vocabulary.resolution
    about = {"output_format": ask.output_format, "size": f"{width}x{height}"}
    if ask.stream:
        return Events(job, _events(ask, service, job, event, about), service.settings.keep_alive)
    data = await unless_gone(http, _drawn(ask, service, job))
    return ImagesAnswer(created=now(), data=data, usage=ImageUsage.of(job.usage), **about)


async def _drawn(ask: ImageAsk, service: Service, job: Job) -> list[DrawnImage]:
    drawn: dict[int, DrawnImage] = {}
    async for index, piece in job:
        if isinstance(piece, Picture):
            file = await service.work(encode, piece.image, ask.output_format)
            drawn[index] = DrawnImage(b64_json=file, seed=job.seeds[index])
    return [drawn[index] for index in sorted(drawn)]


async def _events(ask: ImageAsk, service: Service, job: Job, event: str, about: dict[str, str]) -> AsyncIterator[bytes]:
    """Events as OpenAI streams them; `index` is ours, and says which of `n` pictures it is."""
    shown = [0] * ask.n
    async for index, piece in job:
        if not isinstance(piece, Preview | Picture):
            continue
        data: dict[str, Any] = {
            "b64_json": await service.work(encode, piece.image, ask.output_format),
            "created_at": now(),
            "index": index,
            "background": "opaque",
            "quality": "auto",
            **about,
        }
        if isinstance(piece, Preview):
            data |= {"type": f"{event}.partial_image", "partial_image_index": shown[index]}
            shown[index] += 1
        else:
            usage = ImageUsage.of(job.usage_of(index)).model_dump()
            data |= {"type": f"{event}.completed", "seed": job.seeds[index], "usage": usage}
        yield sse(data, data["type"])
