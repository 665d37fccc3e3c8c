"""Judges of how well a picture fits its text: a number per (picture, text).

    ClipScore("openai/clip-vit-base-patch32")      2.5 · max(cos, 0) of CLIP's embeddings
    load_judge("zhiqiulin/clip-flant5-xxl")        VQAScore by CLIP-FlanT5, the judge of published figures
    load_judge("Qwen/Qwen2.5-VL-7B-Instruct")      VQAScore by any image-text-to-text model of transformers

VQAScore (Lin et al. 2024, arXiv 2404.01291) is the probability of the answer "Yes" to a fixed question about the text.
Figures of different judges are not comparable; every result names its judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from liquid_mm.device import default_dtype, pick_device
from liquid_mm.errors import UserError

QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'
ANSWER = "Yes"


class Judge(Protocol):
    """(picture, text) → number.

    Attributes:
        name: stands in the results.
    """

    name: str

    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """A number for each pair, higher for a better fit."""


class ClipScore:
    """CLIPScore (Hessel et al. 2021, arXiv 2104.08718): 2.5 · max(cos(image, "A photo depicts " + text), 0)."""

    def __init__(self, source: str, device: str | None = None) -> None:
        from transformers import AutoProcessor, CLIPModel

        self._processor, model = _load(source, AutoProcessor, CLIPModel)
        self._device = pick_device(device)
        self._model = model.eval().to(self._device)
        self.name = source

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """See `Judge`; texts are cut at CLIP's context."""
        captions = [f"A photo depicts {text}" for text in texts]
        inputs = self._processor(
            text=captions, images=[i.convert("RGB") for i in images], return_tensors="pt", padding=True, truncation=True
        ).to(self._device)
        output = self._model(**inputs)  # its embeddings come normalised
        cosine = (output.image_embeds * output.text_embeds).sum(-1)
        scores: list[float] = (2.5 * cosine.clamp(min=0)).tolist()
        return scores


class ImageTextJudge:
    """VQAScore by an image-text-to-text model: the probability that its reply begins with the token of "Yes".

    Args:
        model: such a model of transformers, in evaluation mode.
        processor: its processor, with a chat template.
        name: stands in the results.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self._model, self._processor, self.name = model, processor, name
        self._yes = processor.tokenizer(ANSWER, add_special_tokens=False)["input_ids"][0]

    @classmethod
    def load(cls, source: str, device: str | None = None) -> ImageTextJudge:
        """Read it from a folder or the Hub.

        Raises:
            UserError: there is no such model there.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        where = pick_device(device)
        processor, model = _load(source, AutoProcessor, AutoModelForImageTextToText, dtype=default_dtype(where))
        return cls(model.eval().to(where), processor, source)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """See `Judge`; one pair at a time, for not every processor pads."""
        return [self._score(image.convert("RGB"), text) for image, text in zip(images, texts, strict=True)]

    def _score(self, image: Image.Image, text: str) -> float:
        content = [{"type": "image"}, {"type": "text", "text": QUESTION.format(text=text)}]
        prompt = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self._processor(images=[image], text=prompt, return_tensors="pt").to(self._model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        logits = self._model(**inputs).logits[0, -1].float()
        return float(logits.softmax(-1)[self._yes])


def load_judge(source: str, device: str | None = None) -> Judge:
    """The VQAScore judge in a folder or on the Hub: CLIP-FlanT5 by its configuration or its name, else any other.

    Raises:
        UserError: there is no model that can be read.
    """
    from liquid_mm.evaluate.clip_flant5 import ClipFlanT5, is_clip_flant5

    return ClipFlanT5.load(source, device) if is_clip_flant5(source) else ImageTextJudge.load(source, device)


def judge_pictures(judge: Judge, pairs: Sequence[tuple[Path, str]], batch_size: int) -> list[float]:
    """Numbers for pairs of picture file and text, a batch of pictures in memory at a time."""
    from tqdm import tqdm

    from liquid_mm.image.preprocess import open_image

    scores: list[float] = []
    for start in tqdm(range(0, len(pairs), batch_size), desc=f"judging by {judge.name}", disable=None):
        batch = pairs[start : start + batch_size]
        scores += judge([open_image(path) for path, _ in batch], [text for _, text in batch])
    return scores


def _load(source: str, processor: Any, model: Any, **options: Any) -> tuple[Any, Any]:
    try:
        return processor.from_pretrained(source), model.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{source} has no {model.__name__.removeprefix('Auto')} that can be read: {error}") from error
