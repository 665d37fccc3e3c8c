"""Shared by all tests: no network, and the parity kit (`assets/parity/README.md`)."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.vocabulary import Vocabulary

PARITY = Path(__file__).parent / "assets" / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the parity kit."""
    return PARITY


@pytest.fixture(scope="session")
def parity_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(PARITY / "lm")


@pytest.fixture(scope="session")
def parity_vocabulary() -> Vocabulary:
    return Vocabulary(
        text_size=768,
        code_offset=768,
        num_codes=8192,
        boi=7,
        eoi=8,
        unconditional=9,
        bos=2,
        eos=1,
        pad=0,
        downsampling=16,
        resolution=(128, 128),
    )


@pytest.fixture(scope="session")
def parity_renderer(parity_tokenizer: PreTrainedTokenizerBase, parity_vocabulary: Vocabulary) -> Renderer:
    return Renderer(parity_tokenizer, parity_vocabulary)
