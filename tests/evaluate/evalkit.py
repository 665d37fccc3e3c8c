"""Small data in the public layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


class MeanColour:
    """A feature net of three features."""

    name, dim = "mean colour", 3

    def __call__(self, images):
        return np.stack([np.asarray(image, np.float64).mean((0, 1)) for image in images])


class Brightness:
    """A judge that looks at the picture alone."""

    name = "brightness"

    def __call__(self, images, texts):
        return [float(np.asarray(image).mean() / 255) for image in images]


def noise(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def questions(root: Path) -> None:
    image = [f"../questions/{i}.png" for i in range(4)]
    people = ["two"] * 5 + ["three"] * 5
    ask = {"question": "How many boats?", "answers": people}
    write_jsonl(root / "vqav2" / "val.jsonl", [{"image": i, **ask} for i in image[:2]])
    write_jsonl(root / "textvqa" / "val.jsonl", [{"image": image[0], **ask}])
    write_jsonl(root / "gqa" / "testdev.jsonl", [{"image": image[0], "question": "What is it?", "answer": "boat"}])
    pope = [
        {
            "image": i,
            "question": "Is there a dog?",
            "answer": ("yes", "no")[n % 2],
            "category": ("random", "popular")[n // 2],
        }
        for n, i in enumerate(image)
    ]
    write_jsonl(root / "pope" / "pope.jsonl", pope)
    mme = [
        {
            "image": image[n // 2],
            "question_id": f"color/{n // 2}.png",
            "category": "color",
            "answer": ("Yes", "No")[n % 2],
        }
        for n in range(4)
    ]
    write_jsonl(root / "mme" / "mme.jsonl", [{**m, "question": "Is it red? Please answer yes or no."} for m in mme])
