"""Real parts on small data: the parity kit's VQGAN and tokenizer, pictures drawn here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datakit import COLOURS, picture
from transformers import AutoTokenizer

from liquid_mm.data.tokenize import tokenize
from liquid_mm.image.chameleon import load_chameleon
from liquid_mm.image.vqgan import VQGAN
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.vocabulary import Vocabulary

PARITY = Path(__file__).parents[1] / "assets" / "parity"


@pytest.fixture(scope="session")
def image_tokenizer() -> VQGAN:
    return load_chameleon(PARITY / "vqgan")


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
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
        resolution=(32, 32),
    )


@pytest.fixture(scope="session")
def renderer(vocabulary: Vocabulary) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(PARITY / "lm"), vocabulary)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as a JSON lines file and returns its path; a string is written as it is."""

    def write(*records: object, name: str = "records.jsonl") -> Path:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory, image_tokenizer: VQGAN) -> dict[str, Path]:
    """One tokenised set of each kind: 23 pairs, 11 documents of growing length, 7 conversations."""
    root = tmp_path_factory.mktemp("sets")
    pairs = [{"id": f"pair {n}", "image": picture(n), "text": f"a {COLOURS[n % 5]} disc number {n}"} for n in range(23)]
    texts = [{"text": f"story {n}: " + "the duck swims on the lake. " * (1 + 2 * n)} for n in range(11)]
    chats = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": picture(n, (48, 32))}, {"type": "text", "text": "What?"}],
                },
                {"role": "assistant", "content": f"A disc, {n} pixels wide."},
                {"role": "user", "content": "Draw another."},
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "Here:"}, {"type": "image", "image": picture(n + 100)}],
                },
            ]
        }
        for n in range(7)
    ]
    sources = {"pairs": (pairs, image_tokenizer), "text": (texts, None), "chat": (chats, image_tokenizer)}
    for name, (records, encoder) in sources.items():
        tokenize(records, encoder, root / name, sizes=[(32, 32)])
    return {name: root / name for name in sources}
