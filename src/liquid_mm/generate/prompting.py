"""From what a person asks to what the engine runs: records by the one renderer, tasks, seeds, sizes.

Prompting(checkpoint).image("a red apple", seed=0, sampling=SamplingConfig(guidance_scale=7.0))    -> Request
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from liquid_mm.checkpoint import Checkpoint
from liquid_mm.errors import UserError
from liquid_mm.generate.editing import fit_picture, kept_places
from liquid_mm.generate.grammar import ImageTask, TextTask
from liquid_mm.generate.guidance import is_guided
from liquid_mm.generate.messages import to_chat
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Chat, ImageToText, Message, Record, Text, TextToImage

Size = tuple[int, int]
ImageLike = Image.Image | str | Path
Messages = Sequence[Mapping[str, Any]]
Keep = tuple[int, int, int, int] | ImageLike
"""What stays of a picture: a box (left, top, right, bottom) in its pixels, or a mask of its size, white there."""


class Prompting:
    """Makes requests for one model.

    Args:
        checkpoint: the model; its image tokenizer reads the pictures in prompts.
        renderer: its renderer.
    """

    def __init__(self, checkpoint: Checkpoint, renderer: Renderer) -> None:
        self._checkpoint, self._renderer, self._vocabulary = checkpoint, renderer, checkpoint.vocabulary

    def image(
        self,
        prompt: str,
        seed: int,
        sampling: SamplingConfig,
        size: Size | None = None,
        size_prompt: bool | None = None,
    ) -> Request:
        """A picture of `size` (None: the model's own); the prompt states the size, by default where it is not its own.

        Raises:
            UserError: the size is no multiple of the downsampling, or the seed is out of range.
        """
        stated = self._stated(size, size_prompt)
        task = self._image_task(sampling, size, stated)
        return Request(self.ids(TextToImage(prompt, size=stated)), seed, image=task)

    def images(
        self,
        prompts: Sequence[str],
        number: int,
        seed: int | None,
        sampling: SamplingConfig,
        size: Size | None = None,
        size_prompt: bool | None = None,
    ) -> list[tuple[str, Request]]:
        """`number` pictures for each of `prompts`, with it; the n-th has seed + n, or one drawn where there is none.

        Raises:
            UserError: as `image`, or a prompt is empty.
        """
        # A string is a sequence of strings too: without this a prompt would be drawn letter by letter.
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("prompts must be strings.")
        if not all(prompt.strip() for prompt in prompts):
            raise UserError("a prompt is empty: say what to draw.")
        if number < 1:
            raise UserError(f"images_per_prompt is {number}: it must be 1 or more.")
        first = {prompt: self.image(prompt, pick_seed(seed), sampling, size, size_prompt) for prompt in prompts}
        wanted = [(prompt, pick_seed(seed, n)) for prompt in prompts for n in range(number)]
        return [(prompt, dataclasses.replace(first[prompt], seed=own)) for prompt, own in wanted]

    def edit(
        self, picture: ImageLike, prompt: str, keep: Keep, seed: int, sampling: SamplingConfig, size: Size | None = None
    ) -> Request:
        """A picture of which `keep` stays and the rest is drawn; see `generate.editing`.

        Raises:
            UserError: a picture cannot be read, the mask is of another size, or no code is left to draw.
        """
        size = size or self._vocabulary.resolution
        (rows, columns) = self._vocabulary.grid(size)
        image = self._checkpoint.open_image(picture)
        mask = keep if isinstance(keep, tuple) else self._checkpoint.open_image(keep)
        places = kept_places(image.size, mask, size, (rows, columns))
        (codes,) = self._checkpoint.image_tokenizer.encode([fit_picture(image, size)])
        ids = self._vocabulary.to_ids(codes).tolist()
        kept = tuple(i if stays else None for i, stays in zip(ids, places.ravel().tolist(), strict=True))
        stated = self._stated(size)
        task = self._image_task(sampling, size, stated, kept=kept)
        return Request(self.ids(TextToImage(prompt, size=stated)), seed, image=task)

    def text(self, record: Text | ImageToText | Chat, seed: int, sampling: SamplingConfig, tokens: int) -> Request:
        """At most `tokens` of text after `record`, as `text_record` makes it."""
        return Request(self.ids(record), seed, text=TextTask(tokens, sampling, self._renderer.stop_ids))

    def chat(
        self, record: Chat, seed: int, writing: SamplingConfig, drawing: SamplingConfig, tokens: int, max_images: int
    ) -> Request:
        """A reply of at most `tokens` of text and `max_images` pictures of the model's own size."""
        image = self._image_task(drawing, max_images=max_images)
        return Request(self.ids(record), seed, image, TextTask(tokens, writing, self._renderer.stop_ids))

    def to_chat(self, messages: Messages) -> Chat:
        """A conversation as users write it (`generate.messages`) as a record."""
        return to_chat(messages, self._checkpoint.read_image)

    def text_record(self, prompt: str | Messages, images: Sequence[ImageLike]) -> Text | ImageToText | Chat:
        """What to continue or answer: a text, a picture to caption, a question about pictures, or a conversation.

        Raises:
            UserError: the parts make no prompt, or an image cannot be read.
        """
        if not isinstance(prompt, str):
            if images:
                raise UserError("with messages, put the images into the messages' content instead of `images`.")
            return self.to_chat(prompt)
        images = [images] if isinstance(images, str | Path | Image.Image) else images
        grids = [self._checkpoint.read_image(image) for image in images]
        if not grids:
            if not prompt and self._vocabulary.bos is None:
                raise UserError("the prompt is empty: this model needs some text to continue.")
            return Text(prompt)
        if prompt:
            return Chat((Message("user", (*grids, prompt)),))
        if len(grids) > 1:
            raise UserError("a caption is of one image: ask a question about several, or caption one by one.")
        return ImageToText(grids[0])

    def ids(self, record: Record) -> tuple[int, ...]:
        """The ids of a record."""
        return tuple(self._renderer.render(record).ids.tolist())

    def _stated(self, size: Size | None, size_prompt: bool | None = None) -> Size | None:
        """The size the prompt is to state, if any."""
        own = self._vocabulary.resolution
        width, height = size or own
        state = (width, height) != own if size_prompt is None else size_prompt
        return (width, height) if state else None

    def _image_task(
        self,
        sampling: SamplingConfig,
        size: Size | None = None,
        stated: Size | None = None,
        max_images: int = 1,
        kept: tuple[int | None, ...] = (),
    ) -> ImageTask:
        # The unconditional prompt states the size whenever the prompt does, as in training.
        guided = is_guided(sampling.guidance_scale)
        unconditional = self.ids(TextToImage("", size=stated, unconditional=True)) if guided else ()
        grid = self._vocabulary.grid(size or self._vocabulary.resolution)
        return ImageTask(grid, sampling, unconditional, max_images, kept)


def pick_seed(seed: int | None, offset: int = 0) -> int:
    """`seed + offset`, or one drawn at random where there is none."""
    return secrets.randbits(31) if seed is None else seed + offset
