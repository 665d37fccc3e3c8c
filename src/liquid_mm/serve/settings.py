"""What an operator may set about a server, with defaults that suit one machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from liquid_mm.config import Config

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(Config):
    """Limits and habits of a server.

    Attributes:
        api_keys: who may use it; none lets everybody in.
        max_body_bytes: of an HTTP request, uploads included.
        max_image_pixels: of a picture that is sent, as its header states them.
        max_images: pictures in one prompt.
        max_prompt_characters: of text in one prompt; its tokens are bounded by the model's context.
        max_output_tokens: text tokens of a reply, and codes of a picture, that may be asked for.
        max_choices: replies or pictures of one request (`n`).
        max_queue: replies accepted that nothing has been computed of yet; beyond that requests are refused.
        max_per_key: replies under way for one key, or for one window of the page.
        deadline: seconds a request may take, waiting included.
        keep_alive: seconds after which a stream that has nothing to tell sends a comment.
        grace: seconds that running requests have to finish when the server is told to stop.
        image_hosts: where pictures may be fetched from by address; none is nowhere.
        log_prompts: whether what people ask is written to the log.
    """

    api_keys: tuple[str, ...] = ()
    max_body_bytes: Positive = 20_000_000
    max_image_pixels: Positive = 16_000_000
    max_images: Positive = 8
    max_prompt_characters: Positive = 100_000
    max_output_tokens: Positive = 4096
    max_choices: Positive = 10
    max_queue: Positive = 64
    max_per_key: Positive = 16
    deadline: Seconds = 300.0
    keep_alive: Seconds = 15.0
    grace: Positive = 30
    image_hosts: tuple[str, ...] = ()
    log_prompts: bool = False
