"""Tiny models with an opinion, and requests for them."""

from __future__ import annotations

import dataclasses
import functools

import torch
from transformers import AutoModelForCausalLM, MistralConfig, PhiConfig

from liquid_mm.generate import reference
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.grammar import ImageTask, TextTask
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary
from tiny import tiny_liquid

# Prompts of these lengths in one batch; the longest exceeds the tiny Gemma 2's and 3's window of 64.
LENGTHS = (3, 30, 90)


MORE = {
    "phi": lambda sizes: PhiConfig(**sizes, partial_rotary_factor=0.5),
    "mistral, window 20": lambda sizes: MistralConfig(**sizes, num_key_value_heads=2, sliding_window=20),
}
"""Families beside those of `tiny`, for which a model without a tokenizer will do."""


@functools.cache
def model(family):
    if family in MORE:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        torch.manual_seed(0)
        config = MORE[family]({**sizes, "vocab_size": 316, "max_position_embeddings": 512, "pad_token_id": 0})
        llm = AutoModelForCausalLM.from_config(config).eval()
        ids = {"boi": 7, "eoi": 8, "unconditional": 9, "bos": 2, "eos": 1, "pad": 0}
        vocabulary = Vocabulary(300, 300, 16, **ids, downsampling=8, resolution=(32, 32))
    else:
        llm, _, vocabulary = tiny_liquid(family)
    with torch.no_grad():
        # As they are drawn, the layers hardly change the last token's embedding, and every prompt would give the same.
        for parameter in llm.parameters():
            if parameter.ndim == 2 and parameter is not llm.get_output_embeddings().weight:
                parameter *= 10
        llm.get_input_embeddings().weight *= 0.1
    return llm, vocabulary


def prompt(length: int, *end: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(length)
    return (*torch.randint(20, 250, (length,), generator=generator).tolist(), *end)


def picture(vocabulary, length=3, size=(32, 32), scale=1.0, seed=0, **sampling) -> Request:
    unconditional = prompt(2, vocabulary.unconditional, vocabulary.boi)
    config = SamplingConfig(**{"top_k": 1, **sampling}, guidance_scale=scale)
    return Request(prompt(length, vocabulary.boi), seed, image=ImageTask(vocabulary.grid(size), config, unconditional))


def text(length=3, tokens=12, stop=(), seed=0, **sampling) -> Request:
    return Request(prompt(length), seed, text=TextTask(tokens, SamplingConfig(**sampling), frozenset(stop)))


def small_text(vocabulary):
    """The same model's vocabulary with so few text ids that `<boi>` is often drawn."""
    return dataclasses.replace(vocabulary, text_size=30, boi=20, eoi=21, unconditional=22, bos=None, eos=23, pad=24)


def reply(vocabulary, scale=3.0, seed=0, max_images=2) -> Request:
    # So hot that every text id is about equally likely.
    hot = SamplingConfig(temperature=1e6)
    unconditional = (vocabulary.unconditional, vocabulary.boi)
    drawing = ImageTask((2, 3), SamplingConfig(guidance_scale=scale), unconditional, max_images)
    return Request(prompt(10), seed, image=drawing, text=TextTask(24, hot, frozenset()))


def simplify(result):
    return [part if isinstance(part, tuple) else part.tolist() for part in result.parts]


def assert_equals_reference(llm, vocabulary, requests, max_batch=16):
    results = Engine(llm, vocabulary, max_batch).run(requests)
    expected = [reference.generate(llm, vocabulary, request) for request in requests]
    assert [simplify(r) for r in results] == [simplify(r) for r in expected]
    return results
