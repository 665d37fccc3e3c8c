"""How many pixels a code should stand for, and how many codes there should be: short trainings of the image tokenizer.

    python recipes/emoji/compare_tokenizers.py runs/tokenizers               # 300 steps each; some three minutes each
    python recipes/emoji/compare_tokenizers.py runs/tokenizers --steps 3000  # as long as the demo's own

Everything else is `tokenizer.yaml`: pictures, order, batches and rates. A run that is finished is not done again. The
table goes to RUNS/table.md: PSNR on pictures of concepts never seen, share of codes used, their perplexity, bits of a
picture (codes times log2 of their number), and codes of a picture, which is what a language model has to draw.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from command import run

from liquid_mm.config import load_config
from liquid_mm.files import atomic_file
from liquid_mm.image.recipe import ImageTokenizerConfig
from liquid_mm.image.train import train_tokenizer

# A stem of 4 pixels, then a level per further halving.
WIDTHS = {4: (256,), 8: (128, 256), 16: (128, 256, 256)}
LEVELS = {1000: (8, 5, 5, 5), 4375: (7, 5, 5, 5, 5), 8000: (8, 8, 5, 5, 5)}
VARIANTS = [(4, 1000), (8, 1000), (8, 4375), (8, 8000), (16, 1000), (16, 8000)]
"""Pixels along a code's side, and number of codes."""

HEAD = (
    "| pixels a code | codes | codes a picture | bits a picture | PSNR, dB | codes used | perplexity |\n" + "| --- " * 7
)


def variant(config: ImageTokenizerConfig, side: int, codes: int, steps: int) -> ImageTokenizerConfig:
    """The recipe with another downsampling, codebook and length."""
    change: dict[str, Any] = {"channels": WIDTHS[side], "levels": LEVELS[codes], "steps": steps, "every": steps}
    return ImageTokenizerConfig.model_validate(config.model_dump() | change)


def main(
    runs: Annotated[Path, typer.Argument(help="Folder for all runs.")],
    recipe: Annotated[Path, typer.Option(help="What the variants are changes of.")] = Path(
        "recipes/emoji/tokenizer.yaml"
    ),
    steps: Annotated[int, typer.Option(min=1)] = 300,
) -> None:
    """Train every variant for a few steps and set the results side by side."""
    config = load_config(ImageTokenizerConfig, recipe)
    print(HEAD + "|", flush=True)
    rows = []
    for side, codes in VARIANTS:
        report = train_tokenizer(variant(config, side, codes, steps), runs / f"{side}x{codes}-{steps}", resume=True)
        number = (config.resolution // side) ** 2
        bits = number * math.log2(codes)
        rows.append(
            f"| {side}×{side} | {codes} | {number} | {bits:.0f} | {report.psnr:.2f} | {report.codes_used:.0%} | "
            f"{report.perplexity:.0f} |"
        )
        print(rows[-1], flush=True)
    with atomic_file(runs / "table.md") as part:
        part.write_text("\n".join([HEAD + "|", *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
