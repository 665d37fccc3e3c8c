"""What comes in, in OpenAI's shapes, with a few fields of our own where theirs have no word for it.

Of our own: `guidance_scale`, `top_k`, `max_images`; `images` beside the `content` of a reply, each with its `offset`,
the number of characters of `content` that come before it; `seed` beside a drawn picture.

What these shapes do not know is refused by name rather than ignored, for `tools` that are never called or penalties
that are never applied would be a quiet lie. Left out are only fields that change nothing about the answer, and fields
that ask for nothing (`null`, `false`, `0`, empty).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from liquid_mm.errors import UserError
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.serve.service import DRAWING

_HARMLESS = frozenset(
    (
        "metadata", "moderation", "parallel_tool_calls", "prompt_cache_key", "quality", "safety_identifier",
        "service_tier", "store", "stream_options", "user", "verbosity",
    )
)  # fmt: skip

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=1, le=2**31)]
Guidance = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
Number = Annotated[int, Field(ge=1, le=128)]
Tokens = Annotated[int, Field(ge=1, le=2**31)]
Stop = str | Annotated[list[str], Field(max_length=4)]


class Ask(BaseModel):
    """A request body; `null` is as good as leaving a field out."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = cls.model_fields
        return {
            name: value
            for name, value in data.items()
            if (value is not None if name in known else bool(value) and name not in _HARMLESS)
        }


def writing(temperature: float, top_p: float, top_k: int | None) -> SamplingConfig:
    """Sampling in OpenAI's terms, where a temperature of 0 is greedy."""
    return SamplingConfig(temperature, top_k, top_p) if temperature else SamplingConfig(1.0, 1, 1.0)


def stops(stop: Stop | None) -> list[str]:
    """Stop strings as a list."""
    return [stop] if isinstance(stop, str) else stop or []


class ImageUrl(BaseModel):
    """An address: a data URL, or one the server may fetch."""

    url: str


class ImagePart(BaseModel):
    """A picture in a message."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


class TextPart(BaseModel):
    """Text in a message."""

    type: Literal["text"] = "text"
    text: str


class DrawnPart(ImagePart):
    """A picture in a reply; `offset` characters of the reply's `content` come before it."""

    offset: int = 0


class Turn(BaseModel):
    """A message; a reply with its `images` may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None
    images: list[DrawnPart] | None = None

    def parts(self) -> list[dict[str, str]]:
        """Its texts and pictures in order, as `generate.messages` has them."""
        if not isinstance(self.content, list):
            return self._interleaved(self.content or "")
        return [
            {"type": "text", "text": part.text}
            if isinstance(part, TextPart)
            else {"type": "image", "image": part.image_url.url}
            for part in self.content
        ] + self._interleaved("")

    def _interleaved(self, text: str) -> list[dict[str, str]]:
        parts, start = [], 0
        for image in sorted(self.images or [], key=lambda image: image.offset):
            parts += [{"type": "text", "text": text[start : image.offset]}]
            parts += [{"type": "image", "image": image.image_url.url}]
            start = max(start, image.offset)
        parts += [{"type": "text", "text": text[start:]}]
        return [part for part in parts if part != {"type": "text", "text": ""}]


class StreamOptions(BaseModel):
    """Of a streamed reply."""

    include_usage: bool = False


class ChatAsk(Ask):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    modalities: list[Literal["text", "image"]] = ["text", "image"]
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    max_images: Annotated[int, Field(ge=0, le=16)] = 4
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    top_k: TopK | None = None
    guidance_scale: Guidance | None = None
    n: Number = 1
    seed: Seed | None = None
    stop: Stop | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as `generate.messages` has them."""
        return [
            {"role": "system" if turn.role == "developer" else turn.role, "content": turn.parts()}
            for turn in self.messages
        ]


class CompletionAsk(Ask):
    """POST /v1/completions."""

    prompt: str
    max_tokens: Tokens = 16
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    top_k: TopK | None = None
    n: Number = 1
    seed: Seed | None = None
    stop: Stop | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


class ImageAsk(Ask):
    """POST /v1/images/generations, and the fields that /v1/images/edits shares with it."""

    prompt: str
    n: Number = 1
    size: str = "auto"
    seed: Seed | None = None
    guidance_scale: Guidance | None = None
    temperature: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = DRAWING.temperature
    top_p: TopP = DRAWING.top_p
    top_k: TopK | None = DRAWING.top_k
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    background: Literal["auto", "opaque"] = "auto"
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0

    def sampling(self, guidance: float) -> SamplingConfig:
        """How codes are to be sampled, with `guidance` where none is asked for."""
        return SamplingConfig(self.temperature, self.top_k, self.top_p, self.guidance_scale or guidance)

    def pixels(self) -> tuple[int, int] | None:
        """(width, height) of `size`, or None for the model's own.

        Raises:
            UserError: it is not of the form WIDTHxHEIGHT.
        """
        if self.size == "auto":
            return None
        width, cross, height = self.size.partition("x")
        if not (cross and all(side.isascii() and side.isdecimal() and len(side) < 6 for side in (width, height))):
            raise UserError(f"size is {self.size!r}: it must be 'auto' or WIDTHxHEIGHT in pixels, as in '512x512'.")
        return int(width), int(height)
