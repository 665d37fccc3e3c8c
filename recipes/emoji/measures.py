"""What the report measures of a model on emoji: drawing, putting together, describing, answering, English.

Each `measure_…` adds its rows to a `Report`: the value, its 95 % interval by bootstrap over concepts (all seeds of a
concept drawn together), how many, and what chance gives.
"""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import Gallery, matches
from PIL import Image

from liquid_mm.evaluate.asking import answer
from liquid_mm.evaluate.features import FeatureNet
from liquid_mm.evaluate.frechet import Gaussian, frechet_distance
from liquid_mm.evaluate.protocol import Value
from liquid_mm.evaluate.stats import bootstrap
from liquid_mm.evaluate.vqa_rules import exact_match
from liquid_mm.generate.model import LiquidModel
from liquid_mm.vocab.base import load_base

GUIDANCE = 1.0
CURVE = (1.0, 2.0, 3.0, 5.0, 7.0)
TOPS = (1, 10)
OWN_SEED = 100  # not one that `drawn.py` draws with
BATCH = 24

# Split -> the pictures asked for, and the file of what else the judge may take them for.
DRAWN = {
    "seen": ("train_common.jsonl", None),
    "seen, Noto style": ("train_common_noto.jsonl", None),
    "seen, Twemoji style": ("train_common_twemoji.jsonl", None),
    "unseen in that style": ("test_pictures.jsonl", "train_common_twemoji.jsonl"),
    "unseen composition": ("test_compositions.jsonl", None),
    "unseen concept": ("test_concepts.jsonl", None),
}
DESCRIBED = {split: file for split, (file, _) in DRAWN.items()} | {
    "unseen picture": "test_pictures.jsonl",
    "unseen style": "test_style.jsonl",
}
del DESCRIBED["unseen in that style"]

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A drawing and what it should have been; rank 0 is the nearest picture of the judge's gallery."""

    split: str
    prompt: str
    rank: int
    drawn: Image.Image
    wanted: Image.Image


class Report:
    """The rows of demo.json, as they come."""

    def __init__(self) -> None:
        self.rows: list[Record] = []

    def add(
        self, metric: str, split: str, values: Sequence[float], units: Sequence[str], chance: float | None = None
    ) -> None:
        """The mean of `values`, resampled by `units` (concepts)."""
        table = {"value": np.asarray(values, float), "unit": np.array(units)}
        low, high = bootstrap(table, lambda t: {"mean": Value(float(t["value"].mean()), len(t["value"]))}, "unit")[
            "mean"
        ]
        self.add_number(metric, split, float(np.mean(values)), len(values), (low, high), chance)

    def add_number(
        self,
        metric: str,
        split: str,
        value: float,
        n: int,
        interval: tuple[float, float] | None = None,
        chance: float | None = None,
    ) -> None:
        """A number that is known as a whole."""
        row = {"metric": metric, "split": split, "value": value, "interval": interval, "n": n, "chance": chance}
        self.rows.append(row)
        shown = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        print(f"{metric}, {split}: {value:.3f}{shown} (n = {n}, chance {chance})", flush=True)


def read(file: Path) -> Iterator[Record]:
    """The records of a JSONL file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def pictures_of(file: Path, variants: Sequence[str] = ("styled",)) -> list[Record]:
    """One record per picture, its caption with the style; of training pictures those of common things."""
    found: dict[str, Record] = {}
    for record in read(file):
        if record["variant"] in variants and (record["common"] or record["split"] != "train"):
            found.setdefault(record["image"], record)
    return list(found.values())


def some(records: list[Record], count: int) -> list[Record]:
    """`count` of them, always the same."""
    records = list(records)
    random.Random(0).shuffle(records)
    return records[:count]


def open_all(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    """Pictures below `folder`."""
    return [Image.open(folder / name).convert("RGB") for name in names]


def features_of(net: FeatureNet, images: Sequence[Image.Image]) -> np.ndarray:
    """Features (n, d)."""
    return np.concatenate([net(images[start : start + 32]) for start in range(0, len(images), 32)])


def draw(
    model: LiquidModel, prompts: Sequence[str], seed: int, guidance: float, size: tuple[int, int] | None = None
) -> list[Image.Image]:
    """A picture for each prompt."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        drawn = model.generate_images(prompts[start : start + BATCH], guidance_scale=guidance, seed=seed, size=size)
        images += [picture.image for picture in drawn]
    return images


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet distance between two sets of features."""
    gaussians = []
    for features in (first, second):
        gaussian = Gaussian(features.shape[1])
        gaussian.add(features)
        gaussians.append(gaussian)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer pictures than dimensions: all rows have as many, which the text says
        return frechet_distance(*gaussians)


def measure_drawing(
    model: LiquidModel, net: FeatureNet, emoji: Path, count: int, seeds: int, report: Report
) -> list[Judged]:
    """Text to image, split by split, then by guidance on what was seen. Returns all drawings but the latter."""
    judged = []
    for split, (file, among) in DRAWN.items():
        records = some(pictures_of(emoji / file), count)
        everything = pictures_of(emoji / (among or file))
        everything += [r for r in records if r["image"] not in {e["image"] for e in everything}]
        place = {record["image"]: number for number, record in enumerate(everything)}
        wanted = [place[record["image"]] for record in records]
        real = open_all(emoji, [record["image"] for record in everything])
        gallery = Gallery(features_of(net, real), [record["style"] for record in everything])
        units, prompts = [r["concept"] for r in records], [r["text"] for r in records]
        rebuilt = features_of(net, model.decode_images(model.encode_images([real[i] for i in wanted])))
        drawings = [draw(model, prompts, seed, GUIDANCE) for seed in range(seeds)]
        drawn = [features_of(net, images) for images in drawings]
        for images, features in zip(drawings, drawn, strict=True):
            row = zip(prompts, gallery.ranks(features, wanted), images, wanted, strict=True)
            judged += [Judged(split, prompt, int(rank), image, real[i]) for prompt, rank, image, i in row]
        for top in TOPS:
            chance = gallery.chance(wanted, top)
            found = np.concatenate([gallery.ranks(features, wanted) < top for features in drawn])
            report.add(f"found, top-{top}", split, found, units * seeds, chance)
            report.add(f"found, top-{top}: tokenizer", split, gallery.ranks(rebuilt, wanted) < top, units, chance)
            other = np.concatenate([gallery.ranks(features, wanted[1:] + wanted[:1]) < top for features in drawn])
            report.add(f"found, top-{top}: shuffled prompts", split, other, units * seeds, chance)
        if len(wanted) == count:  # of fewer pictures it is another number
            truth, mean = gallery.features[wanted], np.mean
            report.add_number("Fréchet distance", split, float(mean([distance(d, truth) for d in drawn])), count)
            report.add_number("Fréchet distance: tokenizer", split, distance(rebuilt, truth), count)
        if split == "seen":
            for guidance in CURVE:
                features = features_of(net, draw(model, prompts, 0, guidance))
                within = gallery.ranks(features, wanted) < 10
                report.add(f"found, top-10, guidance {guidance:g}", split, within, units, gallery.chance(wanted, 10))
    return judged


def halves(image: Image.Image, direction: str) -> tuple[Image.Image, Image.Image]:
    """The two parts of a picture that `scenes.stack` put together."""
    width, height = image.size
    first = (0, 0, width, height // 2) if direction == "above" else (0, 0, width // 2, height)
    second = (0, height // 2, width, height) if direction == "above" else (width // 2, 0, width, height)
    return image.crop(first), image.crop(second)


def measure_pairs(model: LiquidModel, net: FeatureNet, emoji: Path, count: int, seeds: int, report: Report) -> None:
    """Two things in one picture of another size: a picture counts as found where both of its halves are."""
    things = pictures_of(emoji / "train_common.jsonl")
    real = open_all(emoji, [thing["image"] for thing in things])
    gallery = Gallery(features_of(net, real), [thing["style"] for thing in things])
    place = {thing["name"]: number for number, thing in enumerate(things)}
    for file, known in (("train_pairs", "seen pair"), ("test_pairs", "unseen pair")):
        for direction in ("above", "beside"):
            split = f"{known}, one {direction} the other"
            records = some([r for r in read(emoji / f"{file}.jsonl") if r["direction"] == direction], count)
            units = [" ".join(sorted(record["parts"])) for record in records]
            wanted = [[place[record["parts"][number]] for record in records] for number in range(2)]
            with Image.open(emoji / records[0]["image"]) as image:
                size = image.size
            ranks: list[np.ndarray] = []
            for seed in range(seeds):
                drawn = draw(model, [record["text"] for record in records], seed, GUIDANCE, size)
                parts = zip(*(halves(image, direction) for image in drawn), strict=True)
                both = [gallery.ranks(features_of(net, p), w) for p, w in zip(parts, wanted, strict=True)]
                ranks.append(np.maximum(*both))
            for top in TOPS:
                chance = gallery.chance(wanted[0], top) ** 2
                report.add(f"found, top-{top}, both", split, np.concatenate(ranks) < top, units * seeds, chance)


def measure_captions(model: LiquidModel, emoji: Path, count: int, report: Report) -> None:
    """Image to text: does the caption name what is there? Of real pictures, and of what the model draws itself."""
    own = {f"own drawing of {split}": DRAWN[split][0] for split in DRAWN if split.startswith("seen")}
    for split, file in (DESCRIBED | own).items():
        records = some(pictures_of(emoji / file, ("styled", "article")), count)
        if split in own:
            images = draw(model, [record["text"] for record in records], OWN_SEED, GUIDANCE)
        else:
            images = open_all(emoji, [record["image"] for record in records])
        answers: list[str] = []
        for start in range(0, len(images), BATCH):
            answers += answer(model, [("", image) for image in images[start : start + BATCH]], 24)
        names, units = [record["name"] for record in records], [record["concept"] for record in records]
        for number, kind in enumerate(("exact", "a keyword")):
            right = [matches(said, name)[number] for said, name in zip(answers, names, strict=True)]
            # Chance: the same answers about other pictures.
            other = [matches(said, name)[number] for said, name in zip(answers, names[1:] + names[:1], strict=True)]
            report.add(f"caption names it, {kind}", split, right, units, float(np.mean(other)))


def measure_questions(model: LiquidModel, emoji: Path, count: int, report: Report) -> None:
    """Short questions that training never asked of these pictures; chance is always saying the commonest answer.

    The last word of a reply is its answer: asked for yes or no, the model says first what it sees.
    """
    by_kind: dict[str, list[Record]] = {}
    for record in read(emoji / "test_questions.jsonl"):
        by_kind.setdefault(record["kind"], []).append(record)
    for kind, all_records in by_kind.items():
        records = some(all_records, count)
        asked = [record["messages"][0]["content"] for record in records]
        images = open_all(emoji, [picture["image"] for picture, _ in asked])
        prompts = [(question["text"], image) for (_, question), image in zip(asked, images, strict=True)]
        answers = [said for at in range(0, len(prompts), BATCH) for said in answer(model, prompts[at : at + BATCH], 24)]
        right = [
            float(exact_match("".join(said.split()[-1:]), record["answer"]))
            for said, record in zip(answers, records, strict=True)
        ]
        most = Counter(record["answer"] for record in records).most_common(1)[0][1] / len(records)
        report.add("answers right", kind, right, [record["concept"] for record in records], most)


@torch.inference_mode()
def perplexity(llm: Any, tokenizer: Any, texts: Sequence[str], vocabulary_size: int) -> tuple[float, int]:
    """Perplexity of `texts` over the text ids alone, and how many tokens it is over."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:1024]], device=llm.device)
        logits = llm(ids).logits[0, :-1, :vocabulary_size].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return float(np.exp(total / count)), count


def measure_text(model: LiquidModel, base: str, emoji: Path, report: Report) -> None:
    """Is English kept? Held-out documents, before and after."""
    texts = [record["text"] for record in read(emoji / "text_validation.jsonl")][:46]
    checkpoint = model.checkpoint
    size = checkpoint.vocabulary.text_size
    before, _ = load_base(base, dtype=checkpoint.llm.dtype)
    for name, network in (("before training", before), ("after", checkpoint.llm)):
        value, count = perplexity(network, checkpoint.tokenizer, texts, size)
        report.add_number("text perplexity", name, value, count)
