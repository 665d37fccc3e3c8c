from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from liquid_mm.errors import UserError
from liquid_mm.vocab.prompts import INSTRUCTIONS, ImageSpan, Renderer, TokenPiece, size_text
from liquid_mm.vocab.records import Chat, ImageToText, Message, Record, Text, TextToImage
from liquid_mm.vocab.vocabulary import Vocabulary

GRID = np.arange(6).reshape(2, 3)


def kit(parity: Path, name: str) -> Any:
    return json.loads((parity / name).read_text(encoding="utf-8"))


def kit_grid(parity: Path, image: str) -> np.ndarray:
    entry = kit(parity, "codes.json")[image]
    width, height = entry["size_wh"]
    return np.array(entry["codes"]).reshape(height // 16, width // 16)


def test_training_sequences_are_those_of_the_release(parity: Path, parity_renderer: Renderer) -> None:
    examples = kit(parity, "training_examples.json")
    assert {example["direction"] for example in examples} == {
        "text",
        "text_to_image",
        "text_to_image_unconditional",
        "image_to_text",
    }
    for example in examples:
        record: Record
        if example["direction"] == "text":
            record = Text(example["text"])
        elif example["direction"] == "image_to_text":
            record = ImageToText(kit_grid(parity, example["image"]), example["caption"])
        else:
            unconditional = example["direction"].endswith("unconditional")
            record = TextToImage(
                example["caption"], kit_grid(parity, example["image"]), INSTRUCTIONS[0], unconditional=unconditional
            )
        rendered = parity_renderer.render(record)
        assert rendered.ids.tolist() == example["input_ids"]
        assert np.where(rendered.loss_mask, rendered.ids, -100).tolist() == example["labels"]


@pytest.mark.parametrize(("name", "sized"), [("cfg1", False), ("cfg7", False), ("cfg3_wide", True)])
def test_generation_prompts_are_those_of_the_release(
    parity: Path, parity_renderer: Renderer, name: str, sized: bool
) -> None:
    case = kit(parity, "generation.json")[name]
    size = tuple(case["size_wh"]) if sized else None
    records = [TextToImage(prompt, size=size) for prompt in case["prompts"]]
    if case["guidance_scale"] != 1:
        records += [TextToImage(prompt, size=size, unconditional=True) for prompt in case["prompts"]]
    expected = [[index for index in row if index != 0] for row in case["input_ids_left_padded"]]
    assert [parity_renderer.render(record).ids.tolist() for record in records] == expected


def test_chat_prompts_are_those_of_the_release(parity: Path, parity_renderer: Renderer) -> None:
    generation = kit(parity, "generation.json")
    for case in generation["i2t"]:
        # The release pads and resizes the picture first, so its codes are read off the ids.
        codes = np.array([index - 768 for index in case["input_ids"] if index >= 768]).reshape(8, 8)
        rendered = parity_renderer.render(Chat((Message("user", (codes, case["question"])),)))
        assert rendered.ids.tolist() == case["input_ids"]
        assert not rendered.loss_mask.any()
    for case in generation["t2t"]:
        rendered = parity_renderer.render(Chat((Message("user", (case["question"],)),)))
        assert rendered.ids.tolist() == case["input_ids"]


def test_instructions_follow_a_caption_and_differ() -> None:
    assert INSTRUCTIONS[0] == " Generate an image based on this description."
    assert len(set(INSTRUCTIONS)) == len(INSTRUCTIONS) > 1
    assert all(instruction.startswith(" ") and instruction.endswith(".") for instruction in INSTRUCTIONS)


def test_a_size_is_stated_between_caption_and_instruction(parity_renderer: Renderer) -> None:
    size = (128, 64)
    assert size_text(size) == "Image Size: Width is 128 Height is 64."
    sized = parity_renderer.render(TextToImage("a duck", GRID, " Draw it.", size=size))
    assert text_of(parity_renderer, sized) == f"<bos>a duck{size_text(size)} Draw it.<boi>[6]<eoi><eos>"
    free = parity_renderer.render(TextToImage("a duck", GRID, size=size, unconditional=True))
    assert text_of(parity_renderer, free) == f"<bos>{size_text(size)} <unconditional><boi>[6]<eoi><eos>"


@pytest.mark.parametrize(
    ("answered", "asked"),
    [
        (TextToImage("a duck", GRID), TextToImage("a duck")),
        (TextToImage("", GRID, size=(48, 32), unconditional=True), TextToImage("", size=(48, 32), unconditional=True)),
        (ImageToText(GRID, "a duck"), ImageToText(GRID)),
    ],
)
def test_a_prompt_is_what_comes_before_the_learnt_ids(
    parity_renderer: Renderer, answered: Record, asked: Record
) -> None:
    whole, prompt = parity_renderer.render(answered), parity_renderer.render(asked)
    assert not prompt.loss_mask.any()
    assert whole.loss_mask.tolist() == [False] * len(prompt) + [True] * (len(whole) - len(prompt))
    assert whole.ids[: len(prompt)].tolist() == prompt.ids.tolist()
    assert whole.ids.dtype == np.int64
    assert whole.loss_mask.dtype == np.bool_


def test_a_family_without_bos_starts_with_its_text(
    parity_tokenizer: PreTrainedTokenizerBase, parity_vocabulary: Vocabulary
) -> None:
    renderer = Renderer(parity_tokenizer, dataclasses.replace(parity_vocabulary, bos=None))
    assert text_of(renderer, renderer.render(Text("a duck"))) == "a duck"
    assert renderer.render(TextToImage("", unconditional=True)).ids.tolist() == [9, 7]
    assert renderer.render(ImageToText(GRID)).ids[0] == 7


def test_a_caption_cannot_open_an_image(parity_renderer: Renderer) -> None:
    rendered = parity_renderer.render(TextToImage("a <boi> duck<eos>"))
    assert (rendered.ids == parity_renderer.vocabulary.boi).sum() == 1
    assert rendered.ids[-1] == parity_renderer.vocabulary.boi
    assert not (rendered.ids == parity_renderer.vocabulary.eos).any()


@pytest.mark.parametrize("codes", [np.arange(4), np.zeros((0, 3), int), np.zeros((2, 2)), np.full((2, 2), 9000)])
def test_what_is_no_grid_of_codes_is_refused(parity_renderer: Renderer, codes: np.ndarray) -> None:
    for record in (
        TextToImage("a duck", codes),
        ImageToText(codes, "a duck"),
        Chat((Message("user", (codes,)),)),
    ):
        with pytest.raises(UserError, match="code"):
            parity_renderer.render(record)


def test_stop_ids_are_eos_and_the_end_of_a_turn(parity_renderer: Renderer) -> None:
    assert parity_renderer.stop_ids == {1, 12}


def test_segments_cover_every_id_with_readable_text(parity_renderer: Renderer) -> None:
    rendered = parity_renderer.render(ImageToText(GRID, "a café 🦆"))
    segments = list(parity_renderer.segments(rendered))
    assert segments[0].start == 0
    assert segments[-1].stop == len(rendered)
    assert all(left.stop == right.start for left, right in itertools.pairwise(segments))
    images = [segment for segment in segments if isinstance(segment, ImageSpan)]
    assert images == [ImageSpan(2, 8, loss=False)]
    assert images[0].num_codes == GRID.size
    learnt = "".join(segment.text for segment in segments if isinstance(segment, TokenPiece) and segment.loss)
    assert learnt == "a café 🦆<eos>"
    assert "🦆" in [segment.text for segment in segments if isinstance(segment, TokenPiece)]


def text_of(renderer: Renderer, rendered: Any) -> str:
    """`rendered` as text, an image as "[number of codes]"."""
    return "".join(
        segment.text if isinstance(segment, TokenPiece) else f"[{segment.num_codes}]"
        for segment in renderer.segments(rendered)
    )
