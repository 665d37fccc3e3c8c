"""Commands that train: train-tokenizer, train."""

from __future__ import annotations

from pathlib import Path

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Out, Overrides, Recipe, Resume


@app.command("train-tokenizer")
def train_tokenizer(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = Path("runs/image-tokenizer"),
    resume: Resume = False,
) -> None:
    """Train a small VQGAN; the model lands in OUT/tokenizer, a before/after picture beside it."""
    from liquid_mm.config import load_config
    from liquid_mm.image.recipe import ImageTokenizerConfig
    from liquid_mm.image.train import train_tokenizer

    report = train_tokenizer(load_config(ImageTokenizerConfig, recipe, overrides or ()), out, resume=resume)
    typer.echo(
        f"{out}: {report.pictures} held-out pictures at {report.psnr:.2f} dB PSNR, "
        f"{report.codes_used:.0%} of the codes used, perplexity {report.perplexity:.0f}; see {out / 'grid.png'}"
    )


@app.command()
def train(recipe: Recipe, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train a Liquid model: pre-training, instruction tuning, full or LoRA, by one recipe."""
    from liquid_mm.config import load_config
    from liquid_mm.generate.files import sample_hook
    from liquid_mm.train.config import TrainConfig
    from liquid_mm.train.loop import Interrupted
    from liquid_mm.train.run import train

    try:
        final = train(load_config(TrainConfig, recipe, overrides or ()), resume=resume, on_sample=sample_hook)
    except Interrupted as interrupted:
        typer.echo(str(interrupted), err=True)
        raise typer.Exit(130) from None
    typer.echo(f'{final} is ready: try `liquid generate {final} "a red apple"`.')
