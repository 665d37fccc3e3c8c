"""What users hold: a loaded checkpoint that reads, writes, sees and draws.

    model = liquid_mm.load("out/my-model")
    model.generate_images(["a red apple"], seed=0)[0].image.save("apple.png")
    model.generate_text("", images=["photo.jpg"])                       a caption
    model.generate_text("Once upon a time")                             a continuation
    model.chat([{"role": "user", "content": "Draw a red apple."}])      text and pictures, as the model chooses

Everything here is translation: arguments to records, records to ids by the one renderer, ids through the one engine,
and what comes back to text and pixels.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.checkpoint import Checkpoint, load_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.grammar import ImageTask, Part, TextTask
from liquid_mm.generate.guidance import is_guided
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.messages import to_chat
from liquid_mm.generate.request import OnEvent, Request
from liquid_mm.generate.sampling import SamplingConfig
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Chat, ImageToText, Message, Record, Rendered, Text, TextToImage
from liquid_mm.vocab.text import TextEncoder
from liquid_mm.vocab.vocabulary import Grid

Size = tuple[int, int]
ImageLike = Image.Image | str | Path
Messages = Sequence[Mapping[str, Any]]


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
) -> LiquidModel:
    """Load a checkpoint folder, ready to generate.

    Args:
        path: a folder written by this project, or "demo" for the model inside the package.
        device: where to put it; by default CUDA, then Metal, then the CPU, whichever is there.
        dtype: of the language model's weights ("float32", "bfloat16", "float16"); by default what suits the device.
        quantization: "int8" or "int4" for weight-only quantisation, or None.

    Raises:
        UserError: the folder is missing, of another layout, or its parts do not fit each other.
    """
    return LiquidModel(load_checkpoint(path, device=device, dtype=dtype, quantization=quantization))


class LiquidModel:
    """A Liquid model: a plain causal LM whose vocabulary also holds image codes (paper section 3).

    Args:
        checkpoint: the parts, as `load_checkpoint` gives them.
        max_batch: most sequences computed at once; a guided picture takes two. More requests wait their turn.
    """

    def __init__(self, checkpoint: Checkpoint, max_batch: int = 16) -> None:
        self.checkpoint = checkpoint
        self.vocabulary = checkpoint.vocabulary
        self.renderer = Renderer(checkpoint.tokenizer, checkpoint.vocabulary)
        self.engine = Engine(checkpoint.llm, checkpoint.vocabulary, max_batch)
        self._text = TextEncoder(checkpoint.tokenizer)

    def encode_images(self, images: Sequence[Image.Image]) -> list[NDArray[np.int64]]:
        """Pictures as grids of codes, (height // downsampling, width // downsampling) each (paper section 3.1).

        Nothing is cropped or resized; transparent pictures are laid over white.

        Raises:
            UserError: a side is not a multiple of the image tokenizer's downsampling.
        """
        return self.checkpoint.image_tokenizer.encode(images)

    def decode_images(self, codes: Sequence[Grid]) -> list[Image.Image]:
        """Grids of codes, (rows, columns) each, as RGB pictures of (columns, rows) · downsampling pixels.

        Raises:
            UserError: a grid is not two-dimensional or holds a code outside [0, num_codes).
        """
        return self.checkpoint.image_tokenizer.decode(codes)

    def render(self, record: Record) -> Rendered:
        """The ids (T,) the model sees for a record, and where it would be trained (paper section 3.2).

        Raises:
            UserError: the record holds codes of another vocabulary, or its chat template refuses it.
        """
        return self.renderer.render(record)

    def generate_images(
        self,
        prompts: Sequence[str],
        size: Size | None = None,
        size_prompt: bool | None = None,
        guidance_scale: float = 7.0,
        temperature: float = 0.99,
        top_k: int | None = 4096,
        top_p: float = 0.96,
        seed: int | None = None,
        images_per_prompt: int = 1,
        *,
        on_event: OnEvent | None = None,
    ) -> list[GeneratedImage]:
        """Draw pictures (paper section 3.2).

        Args:
            prompts: descriptions.
            size: (width, height) in pixels, multiples of the downsampling; None is the model's own resolution.
            size_prompt: whether the prompt states the size; None does so when `size` is not the model's own.
            guidance_scale: classifier-free guidance, 1 is none and twice as fast.
            temperature, top_k, top_p: sampling of codes, applied in this order; `top_k=1` is greedy, None keeps all.
            seed: the n-th picture of every prompt has seed + n, whatever else is drawn with it; None draws seeds.
            images_per_prompt: pictures for each prompt.
            on_event: called for every code drawn, as for a progress bar.

        Returns:
            `images_per_prompt` pictures for the first prompt, then those of the second, and so on.

        Raises:
            UserError: a value is outside its range, the size is no multiple, or the picture exceeds the context.
        """
        prompts = _prompts(prompts)
        if images_per_prompt < 1:
            raise UserError(f"images_per_prompt is {images_per_prompt}: it must be 1 or more.")
        stated = self._stated_size(size, size_prompt)
        task = self._image_task(SamplingConfig(temperature, top_k, top_p, guidance_scale), size, stated)
        wanted = [(prompt, _seed(seed, n)) for prompt in prompts for n in range(images_per_prompt)]
        ids = {prompt: self._ids(TextToImage(prompt, size=stated)) for prompt in prompts}
        results = self.engine.run([Request(ids[p], s, image=task) for p, s in wanted], on_event)
        grids = [result.codes for result in results]
        return [
            GeneratedImage(image, codes, prompt, drawn_seed)
            for image, codes, (prompt, drawn_seed) in zip(self.decode_images(grids), grids, wanted, strict=True)
        ]

    def generate_text(
        self,
        prompt_or_messages: str | Messages,
        images: Sequence[ImageLike] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float = 0.9,
        seed: int | None = None,
        *,
        on_event: OnEvent | None = None,
    ) -> str:
        """Write: continue a text, caption a picture, answer a question or reply in a conversation (paper section 3.2).

        Args:
            prompt_or_messages: a text to continue; with `images`, a question about them ("" asks for the caption of one
                picture); or messages as in `generate.messages`.
            images: paths or PIL images of any size: padded to a square and resized to the model's resolution.
            max_new_tokens: most text tokens to write.
            temperature, top_k, top_p: sampling, applied in this order; `top_k=1` is greedy, None keeps all.
            seed: decides the random numbers; None draws one.
            on_event: called for every token.

        Raises:
            UserError: a value is outside its range, an image cannot be read, or the prompt exceeds the context.
        """
        sampling = SamplingConfig(temperature, top_k, top_p)
        record = self._text_record(prompt_or_messages, images)
        task = TextTask(max_new_tokens, sampling, self.renderer.stop_ids)
        (result,) = self.engine.run([Request(self._ids(record), _seed(seed), text=task)], on_event)
        text = self._decode(result.ids)
        return text if isinstance(record, Text) else text.strip()

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int = 512,
        max_images: int = 4,
        guidance_scale: float = 7.0,
        temperature: float = 0.7,
        top_p: float = 0.9,
        seed: int | None = None,
        *,
        on_event: OnEvent | None = None,
    ) -> list[str | GeneratedImage]:
        """Reply with text and pictures in the order the model chooses; it draws where it emits `<boi>`.

        Args:
            messages: the conversation, as in `generate.messages`; the last turn asks for the reply.
            max_new_tokens: most text tokens in the reply; pictures do not count.
            max_images: most pictures in the reply, at the model's resolution.
            guidance_scale: for the pictures; their codes are sampled as `generate_images` does by default.
            temperature, top_p: for the text.
            seed: decides all random numbers of the reply; None draws one.
            on_event: called for every token and code.

        Raises:
            UserError: a message is malformed, an image cannot be read, or the conversation exceeds the context.
        """
        if max_images < 0:
            raise UserError(f"max_images is {max_images}: it must be 0 or more.")
        record = to_chat(messages, self.checkpoint.read_image)
        drawn_seed = _seed(seed)
        drawing = self._image_task(SamplingConfig(0.99, 4096, 0.96, guidance_scale), max_images=max_images)
        writing = TextTask(max_new_tokens, SamplingConfig(temperature, None, top_p), self.renderer.stop_ids)
        request = Request(self._ids(record), drawn_seed, image=drawing, text=writing)
        (result,) = self.engine.run([request], on_event)
        asked = "".join(part for part in record.messages[-1].parts if isinstance(part, str))
        return [self._reply_part(part, asked, drawn_seed) for part in result.parts]

    def _ids(self, record: Record) -> tuple[int, ...]:
        return tuple(self.renderer.render(record).ids.tolist())

    def _decode(self, ids: Sequence[int]) -> str:
        return self._text.decode([token for token in ids if token not in self._text.special_ids])

    def _stated_size(self, size: Size | None, size_prompt: bool | None) -> Size | None:
        """The size the prompt is to state, if any."""
        own = self.vocabulary.resolution
        width, height = size or own
        state = (width, height) != own if size_prompt is None else size_prompt
        return (width, height) if state else None

    def _image_task(
        self, sampling: SamplingConfig, size: Size | None = None, stated: Size | None = None, max_images: int = 1
    ) -> ImageTask:
        # The unconditional prompt states the size whenever the prompt does, as in training.
        guided = is_guided(sampling.guidance_scale)
        unconditional = self._ids(TextToImage("", size=stated, unconditional=True)) if guided else ()
        return ImageTask(self.vocabulary.grid(size or self.vocabulary.resolution), sampling, unconditional, max_images)

    def _text_record(self, prompt: str | Messages, images: Sequence[ImageLike]) -> Text | ImageToText | Chat:
        if not isinstance(prompt, str):
            if images:
                raise UserError("with messages, put the images into the messages' content instead of `images`.")
            return to_chat(prompt, self.checkpoint.read_image)
        images = [images] if isinstance(images, str | Path | Image.Image) else images
        grids = [self.checkpoint.read_image(image) for image in images]
        if not grids:
            if not prompt and self.vocabulary.bos is None:
                raise UserError("the prompt is empty: this model needs some text to continue.")
            return Text(prompt)
        if prompt:
            return Chat((Message("user", (*grids, prompt)),))
        if len(grids) > 1:
            raise UserError("a caption is of one image: ask a question about several, or caption one by one.")
        return ImageToText(grids[0])

    def _reply_part(self, part: Part, prompt: str, seed: int) -> str | GeneratedImage:
        if isinstance(part, tuple):
            return self._decode(part)
        return GeneratedImage(self.decode_images([part])[0], part, prompt, seed)


def _prompts(prompts: Sequence[str]) -> list[str]:
    # A string is a sequence of strings too: without this a prompt would be drawn letter by letter.
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("prompts must be strings.")
    return prompts


def _seed(seed: int | None, offset: int = 0) -> int:
    return secrets.randbits(31) if seed is None else seed + offset
