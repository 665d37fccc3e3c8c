"""Commands that train: train-tokenizer, train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Out, Overrides, Recipe, Resume, extra


@app.command("train-tokenizer")
def train_tokenizer(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = Path("runs/image-tokenizer"),
    resume: Resume = False,
) -> None:
    """Train a small VQGAN; the model lands in OUT/tokenizer, a before/after picture beside it."""
    from liquid_mm.config import load_config

    with extra("train"):
        from liquid_mm.image.recipe import ImageTokenizerConfig
        from liquid_mm.image.train import train_tokenizer

    report = train_tokenizer(load_config(ImageTokenizerConfig, recipe, overrides or ()), out, resume=resume)
    typer.echo(
        f"{out}: {report.pictures} held-out pictures at {report.psnr:.2f} dB PSNR, "
        f"{report.codes_used:.0%} of the codes used, perplexity {report.perplexity:.0f}; see {out / 'grid.png'}"
    )


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Resume = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what the run will take; nothing is loaded.")] = False,
    gpus: Annotated[int | None, typer.Option(min=1, help="Plan for so many; by default the recipe's layouts.")] = None,
    gpu: Annotated[str, typer.Option(help="Plan for this kind: A100, H100, H200 …")] = "H100",
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Plan with this share of the GPUs' peak.")] = 0.4,
) -> None:
    """Train a Liquid model: pre-training, instruction tuning, full or LoRA, by one recipe."""
    from liquid_mm.config import load_config

    with extra("train"):
        from liquid_mm.train.config import TrainConfig

    config = load_config(TrainConfig, recipe, overrides or ())
    if plan:
        return _plan(config, [gpus] if gpus else sorted(config.layouts) or [1], gpu, mfu)
    with extra("train"):
        from liquid_mm.generate.samples import sample_hook
        from liquid_mm.train.run import train
        from liquid_mm.train.signals import Interrupted

    try:
        final = train(config, resume=resume, on_sample=sample_hook)
    except Interrupted as interrupted:
        typer.echo(str(interrupted), err=True)
        raise typer.Exit(0 if interrupted.preempted else 130) from None
    if os.environ.get("RANK", "0") == "0":  # of several processes one is enough to say so
        typer.echo(f'{final} is ready: try `liquid generate {final} "a red apple"`.')


def _plan(config: Any, counts: list[int], gpu: str, mfu: float) -> None:
    from liquid_mm.train.plan import Shape, make_plan, refuse

    shape = Shape.of(config)
    plans = [make_plan(config, shape, count, gpu) for count in counts]
    for plan in plans:
        typer.echo(plan.text(shape, mfu))
    refuse(plans)
