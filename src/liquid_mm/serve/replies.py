"""What goes out, in OpenAI's shapes; see `protocol` for what comes in and for the fields that are ours."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel

from liquid_mm.serve.job import Usage
from liquid_mm.serve.protocol import DrawnPart


class TokenDetails(BaseModel):
    """Tokens by kind."""

    text_tokens: int
    image_tokens: int


class ChatUsage(BaseModel):
    """Tokens of a chat or a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails
    completion_tokens_details: TokenDetails

    @classmethod
    def of(cls, usage: Usage) -> ChatUsage:
        """In OpenAI's words."""
        read, made = usage.prompt_text + usage.prompt_image, usage.text + usage.image
        return cls(
            prompt_tokens=read,
            completion_tokens=made,
            total_tokens=read + made,
            prompt_tokens_details=TokenDetails(text_tokens=usage.prompt_text, image_tokens=usage.prompt_image),
            completion_tokens_details=TokenDetails(text_tokens=usage.text, image_tokens=usage.image),
        )


class ImageUsage(BaseModel):
    """Tokens of drawing."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: TokenDetails

    @classmethod
    def of(cls, usage: Usage) -> ImageUsage:
        """In OpenAI's words."""
        read, made = usage.prompt_text + usage.prompt_image, usage.text + usage.image
        return cls(
            input_tokens=read,
            output_tokens=made,
            total_tokens=read + made,
            input_tokens_details=TokenDetails(text_tokens=usage.prompt_text, image_tokens=usage.prompt_image),
        )


class ReplyMessage(BaseModel):
    """A reply: its text, and the pictures in it."""

    role: Literal["assistant"] = "assistant"
    content: str
    images: list[DrawnPart] | None = None


class ChatChoice(BaseModel):
    """One of `n` replies."""

    index: int
    message: ReplyMessage
    finish_reason: str


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class TextChoice(BaseModel):
    """One of `n` continuations."""

    index: int
    text: str
    finish_reason: str | None = None


class Completion(BaseModel):
    """The answer of /v1/completions, and each event of it when streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChatUsage | None = None


class DrawnImage(BaseModel):
    """A drawn picture; the same request with n=1 and this seed draws it again."""

    b64_json: str
    seed: int | None = None


class ImagesAnswer(BaseModel):
    """The answer of /v1/images/generations and /v1/images/edits."""

    created: int
    data: list[DrawnImage]
    output_format: str
    size: str
    usage: ImageUsage


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "liquid"


class Models(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


def now() -> int:
    """Seconds since 1970, as OpenAI's `created`."""
    return int(time.time())
