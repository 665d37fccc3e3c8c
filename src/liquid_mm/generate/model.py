"""What users hold: a loaded checkpoint that reads, writes, sees and draws.

    model = liquid_mm.load("out/my-model")
    model.generate_images(["a red apple"], seed=0)[0].image.save("apple.png")
    model.generate_text("", images=["photo.jpg"])                       a caption
    model.generate_text("Once upon a time")                             a continuation
    model.chat([{"role": "user", "content": "Draw a red apple."}])      text and pictures, as the model chooses
    model.edit_image("photo.jpg", "at night", keep=(0, 0, 512, 256))    the rest of a picture drawn anew

Everything here is translation: arguments to requests (`prompting`), requests through the one engine, and what comes
back to text and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.checkpoint import Checkpoint, load_checkpoint
from liquid_mm.device import end_helpers, generation_dtype, pick_device
from liquid_mm.errors import UserError
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.fingerprint import weights_fingerprint
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.packed import pack
from liquid_mm.generate.prompting import ImageLike, Keep, Messages, Prompting, Size, pick_seed
from liquid_mm.generate.request import OnEvent, Request, Result
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.generate.stream import Stream, StreamEvent
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Record, Rendered, Text
from liquid_mm.vocab.text import TextEncoder
from liquid_mm.vocab.vocabulary import Grid


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
    *,
    max_batch: int = 16,
) -> LiquidModel:
    """Load a checkpoint folder, ready to generate.

    On a CPU the weights are laid out for its matrix kernels (`generate.packed`): such a model generates, nothing else.

    Args:
        path: a folder written by this project, or "demo" for the model inside the package.
        device: where to put it; by default CUDA, then Metal, then the CPU, whichever is there.
        dtype: of the language model's weights ("float32", "bfloat16", "float16"); by default what suits the device.
        quantization: "int8" or "int4" for weight-only quantisation, or None.
        max_batch: see `LiquidModel`.

    Raises:
        UserError: the folder is missing, of another layout, or its parts do not fit each other.
    """
    device = pick_device(device)
    dtype = dtype or generation_dtype(device)
    checkpoint = load_checkpoint(path, device=device, dtype=dtype, quantization=quantization)
    pack(checkpoint.llm)
    model = LiquidModel(checkpoint, max_batch)
    end_helpers()  # another thread may be the one that generates
    return model


class LiquidModel:
    """A Liquid model: a plain causal LM whose vocabulary also holds image codes (paper section 3).

    Args:
        checkpoint: the parts, as `load_checkpoint` gives them.
        max_batch: most sequences computed at once; a guided picture takes two. More requests wait their turn.

    Attributes:
        engine: runs requests; safe to share between threads, see there.
        prompting: makes requests, for `submit`.

    Raises:
        UserError: generation does not know this family of language models.
    """

    def __init__(self, checkpoint: Checkpoint, max_batch: int = 16) -> None:
        self.checkpoint = checkpoint
        self.vocabulary = checkpoint.vocabulary
        self.renderer = Renderer(checkpoint.tokenizer, checkpoint.vocabulary)
        self.engine = Engine(checkpoint.llm, checkpoint.vocabulary, max_batch)
        self.prompting = Prompting(checkpoint, self.renderer)
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
        guidance_scale: float | None = None,
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
            guidance_scale: classifier-free guidance, 1 is none and twice as fast; None is what suits the checkpoint,
                7 (the released model's) where it does not say.
            temperature, top_k, top_p: sampling of codes, applied in this order; `top_k=1` is greedy, None keeps all.
            seed: the n-th picture of every prompt has seed + n, whatever else is drawn with it; None draws seeds.
            images_per_prompt: pictures for each prompt.
            on_event: called for every code drawn, as for a progress bar.

        Returns:
            `images_per_prompt` pictures for the first prompt, then those of the second, and so on.

        Raises:
            UserError: a value is outside its range, the size is no multiple, or the picture exceeds the context.
        """
        sampling = self._drawing(guidance_scale, temperature, top_k, top_p)
        asked = self.prompting.images(prompts, images_per_prompt, seed, sampling, size, size_prompt)
        grids = [result.codes for result in self.engine.run([request for _, request in asked], on_event)]
        return [
            GeneratedImage(image, codes, prompt, request.seed)
            for image, codes, (prompt, request) in zip(self.decode_images(grids), grids, asked, strict=True)
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
        record = self.prompting.text_record(prompt_or_messages, images)
        sampling = SamplingConfig(temperature, top_k, top_p)
        request = self.prompting.text(record, pick_seed(seed), sampling, max_new_tokens)
        (result,) = self.engine.run([request], on_event)
        text = self._decode(result.ids)
        return text if isinstance(record, Text) else text.strip()

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int = 512,
        max_images: int = 4,
        guidance_scale: float | None = None,
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
            guidance_scale: for the pictures, as in `generate_images`; their other settings are its defaults.
            temperature, top_p: for the text.
            seed: decides all random numbers of the reply; None draws one.
            on_event: called for every token and code.

        Raises:
            UserError: a message is malformed, an image cannot be read, or the conversation exceeds the context.
        """
        if max_images < 0:
            raise UserError(f"max_images is {max_images}: it must be 0 or more.")
        record = self.prompting.to_chat(messages)
        drawing = self._drawing(guidance_scale)
        writing = SamplingConfig(temperature, None, top_p)
        request = self.prompting.chat(record, pick_seed(seed), writing, drawing, max_new_tokens, max_images)
        (result,) = self.engine.run([request], on_event)
        asked = "".join(part for part in record.messages[-1].parts if isinstance(part, str))
        return [
            self._decode(part) if isinstance(part, tuple)
            else GeneratedImage(self.decode_images([part])[0], part, asked, request.seed)
            for part in result.parts
        ]  # fmt: skip

    def edit_image(
        self,
        image: ImageLike,
        prompt: str,
        keep: Keep,
        size: Size | None = None,
        guidance_scale: float | None = None,
        temperature: float = 0.99,
        top_k: int | None = 4096,
        top_p: float = 0.96,
        seed: int | None = None,
        *,
        on_event: OnEvent | None = None,
    ) -> GeneratedImage:
        """Keep a part of a picture and draw the rest, without retraining.

        The model draws row by row: what is drawn follows from the prompt and from kept codes above and to the left of
        it. Kept codes further on stay but do not influence it (see `generate.editing`).

        Args:
            image: a path or a PIL image, scaled and cut around its centre to `size`.
            prompt: describes the whole picture.
            keep: what stays: a box (left, top, right, bottom) in the pixels of `image`, or a mask of its size (a path
                or a PIL image), white where it stays. A code stays where all its pixels do.
            size: (width, height) of the result; None is the model's own resolution.
            guidance_scale, temperature, top_k, top_p, seed, on_event: as in `generate_images`.

        Raises:
            UserError: a picture cannot be read, the box or mask does not fit it, nothing is left to draw, or a value is
                outside its range.
        """
        sampling = self._drawing(guidance_scale, temperature, top_k, top_p)
        request = self.prompting.edit(image, prompt, keep, pick_seed(seed), sampling, size)
        (result,) = self.engine.run([request], on_event)
        return GeneratedImage(self.decode_images([result.codes])[0], result.codes, prompt, request.seed)

    def submit(
        self, request: Request, on_event: Callable[[StreamEvent], None] | None = None, preview_rows: int = 0
    ) -> Future[Result]:
        """Queue a request and watch it; any thread may call this, and somebody has to call `engine.step`.

        Args:
            request: what `prompting` makes.
            on_event: gets text pieces, pictures under way and how it ended (see `generate.stream`), in the thread that
                steps the engine: it should hand them on and return.
            preview_rows: rows of codes between two `ImageRows` of a picture; 0 is none.

        Returns:
            The future of the reply; `engine.cancel` gives it up.

        Raises:
            UserError: the request does not fit the model's context.
        """
        if on_event is None:
            return self.engine.submit(request)
        stream = Stream(request, self.vocabulary, self._text.decode, self._text.special_ids, on_event, preview_rows)
        return stream.follow(self.engine)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the weights, as they are loaded, and with the vocabulary."""
        return weights_fingerprint(self.checkpoint)

    def _drawing(
        self, guidance: float | None, temperature: float = 0.99, top_k: int | None = 4096, top_p: float = 0.96
    ) -> SamplingConfig:
        guidance = self.checkpoint.guidance_scale if guidance is None else guidance
        return SamplingConfig(temperature, top_k, top_p, guidance)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._text.decode([token for token in ids if token not in self._text.special_ids])
