"""Many prompts to a `LiquidModel` at once: pictures with a seed each, answers to questions about pictures.

The model's own methods take one seed for all prompts, or one question; here whole batches go through its engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from liquid_mm.evaluate.settings import EvalSettings
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.text import TextEncoder

GREEDY = SamplingConfig(top_k=1)


def sampling_of(settings: EvalSettings) -> SamplingConfig:
    """How pictures are sampled.

    Raises:
        UserError: a setting is out of its range.
    """
    return SamplingConfig(settings.temperature, settings.top_k, settings.top_p, settings.guidance_scale)


def draw(model: LiquidModel, prompts: Sequence[str], seeds: Sequence[int], settings: EvalSettings) -> list[Image.Image]:
    """A picture per prompt, equal to what `model.generate_images` draws with that seed.

    Raises:
        UserError: a setting is out of its range, or a picture exceeds the model's context.
    """
    sampling = sampling_of(settings)
    requests = [
        model.prompting.image(prompt, seed, sampling, settings.size)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return model.decode_images([result.codes for result in model.engine.run(requests)])


def answer(model: LiquidModel, questions: Sequence[tuple[str, Image.Image]], max_new_tokens: int) -> list[str]:
    """A greedy answer to each (question, picture), equal to what `model.generate_text` gives with `top_k=1`.

    Raises:
        UserError: a prompt exceeds the model's context.
    """
    records = [model.prompting.text_record(question, [image]) for question, image in questions]
    results = model.engine.run([model.prompting.text(record, 0, GREEDY, max_new_tokens) for record in records])
    text = TextEncoder(model.checkpoint.tokenizer)
    return [text.decode([i for i in result.ids if i not in text.special_ids]).strip() for result in results]
