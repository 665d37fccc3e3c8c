"""/v1/models, /v1/chat/completions and /v1/completions: from OpenAI's words to the service's and back.

A reply's text is `content`; its pictures are `images` beside it, or in their place among the deltas of a stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request

from liquid_mm.generate.stream import TextPiece
from liquid_mm.serve.access import SCHEME, Key, TheService, check_model
from liquid_mm.serve.answers import DONE, ErrorAnswer, Events, data_url, sse, unless_gone
from liquid_mm.serve.chance import some_id
from liquid_mm.serve.job import Finish, Job, Picture
from liquid_mm.serve.protocol import ChatAsk, CompletionAsk, DrawnPart, ImageUrl, stops, writing
from liquid_mm.serve.replies import (
    ChatChoice,
    ChatCompletion,
    ChatUsage,
    Completion,
    Model,
    Models,
    ReplyMessage,
    TextChoice,
    now,
)
from liquid_mm.serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 404, 413, 429, 500, 503, 504)
}
router = APIRouter(prefix="/v1", dependencies=[SCHEME], responses=ERRORS)


@router.get("/models")
async def models(service: TheService, key: Key) -> Models:
    """The model that is served."""
    return Models(data=[Model(id=service.name, created=service.since)])


@router.get("/models/{name:path}")
async def model(name: str, service: TheService, key: Key) -> Model:
    """The model, by its name."""
    check_model(service, name)
    return Model(id=name, created=service.since)


@router.post("/chat/completions", response_model=ChatCompletion)
async def chat(ask: ChatAsk, http: Request, service: TheService, key: Key) -> Any:
    """Reply in a conversation, with text and pictures."""
    check_model(service, ask.model)
    job = await service.chat(
        ask.conversation(),
        n=ask.n,
        max_tokens=ask.max_completion_tokens or ask.max_tokens or min(512, service.settings.max_output_tokens),
        max_images=ask.max_images if "image" in ask.modalities else 0,
        seed=ask.seed,
        stop=stops(ask.stop),
        writing=writing(ask.temperature, ask.top_p, ask.top_k),
        drawing=dataclasses.replace(
            service.drawing, guidance_scale=ask.guidance_scale or service.drawing.guidance_scale
        ),
        key=key,
    )
    head: dict[str, Any] = {"id": f"chatcmpl-{some_id()}", "created": now(), "model": service.name}
    if ask.stream:
        chunk = {**head, "object": "chat.completion.chunk"}
        return Events(
            job, _chat_events(job, service, chunk, ask.n, ask.stream_options.include_usage), service.settings.keep_alive
        )
    choices = await unless_gone(http, _chat_choices(job, service, ask.n))
    return ChatCompletion(**head, choices=choices, usage=ChatUsage.of(job.usage))


@router.post("/completions", response_model=Completion, response_model_exclude_none=True)
async def complete(ask: CompletionAsk, http: Request, service: TheService, key: Key) -> Any:
    """Continue a text."""
    check_model(service, ask.model)
    job = await service.write(
        ask.prompt,
        n=ask.n,
        max_tokens=ask.max_tokens,
        seed=ask.seed,
        stop=stops(ask.stop),
        writing=writing(ask.temperature, ask.top_p, ask.top_k),
        key=key,
    )
    answer = Completion(id=f"cmpl-{some_id()}", created=now(), model=service.name, choices=[])
    if ask.stream:
        return Events(job, _text_events(job, answer, ask.stream_options.include_usage), service.settings.keep_alive)
    choices = await unless_gone(http, _text_choices(job, ask.n))
    return answer.model_copy(update={"choices": choices, "usage": ChatUsage.of(job.usage)})


async def _chat_choices(job: Job, service: Service, n: int) -> list[ChatChoice]:
    messages = [ReplyMessage(content="") for _ in range(n)]
    reasons = [""] * n
    async for index, piece in job:
        message = messages[index]
        match piece:
            case TextPiece(text):
                message.content += text
            case Picture(image=image):
                url = ImageUrl(url=await service.work(data_url, image))
                message.images = [*(message.images or []), DrawnPart(image_url=url, offset=len(message.content))]
            case Finish(reason):
                reasons[index] = reason
    return [
        ChatChoice(index=index, message=message, finish_reason=reason)
        for index, (message, reason) in enumerate(zip(messages, reasons, strict=True))
    ]


async def _chat_events(
    job: Job, service: Service, head: dict[str, Any], n: int, include_usage: bool
) -> AsyncIterator[bytes]:
    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return sse({**head, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]})

    written = [0] * n
    for index in range(n):
        yield chunk(index, {"role": "assistant", "content": ""})
    async for index, piece in job:
        match piece:
            case TextPiece(text):
                written[index] += len(text)
                yield chunk(index, {"content": text})
            case Picture(image=image):
                url = ImageUrl(url=await service.work(data_url, image))
                drawn = DrawnPart(image_url=url, offset=written[index])
                yield chunk(index, {"images": [drawn.model_dump()]})
            case Finish(reason):
                yield chunk(index, {}, reason)
    if include_usage:
        yield sse({**head, "choices": [], "usage": ChatUsage.of(job.usage).model_dump()})
    yield DONE


async def _text_choices(job: Job, n: int) -> list[TextChoice]:
    choices = [TextChoice(index=index, text="") for index in range(n)]
    async for index, piece in job:
        match piece:
            case TextPiece(text):
                choices[index].text += text
            case Finish(reason):
                choices[index].finish_reason = reason
    return choices


async def _text_events(job: Job, answer: Completion, include_usage: bool) -> AsyncIterator[bytes]:
    async for index, piece in job:
        match piece:
            case TextPiece(text):
                choice = TextChoice(index=index, text=text)
            case Finish(reason):
                choice = TextChoice(index=index, text="", finish_reason=reason)
            case _:
                raise AssertionError("a continuation is text")
        yield sse(answer.model_copy(update={"choices": [choice]}))
    if include_usage:
        yield sse(answer.model_copy(update={"usage": ChatUsage.of(job.usage)}))
    yield DONE
