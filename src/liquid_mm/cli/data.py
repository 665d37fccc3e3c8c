"""Commands about data: tokenize, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Device, Out, Size


@app.command()
def tokenize(
    source: Annotated[str, typer.Argument(help="JSONL, Parquet, text file, folder, or Hub id.")],
    out: Out,
    image_tokenizer: Annotated[
        Path | None, typer.Option("--image-tokenizer", "-t", help="Encodes the pictures; not needed for text alone.")
    ] = None,
    size: Size = None,
    batch_size: Annotated[int, typer.Option(help="Records encoded together.")] = 16,
    max_rejects: Annotated[float, typer.Option(help="Share of unusable records above which the command fails.")] = 0.05,
    device: Device = None,
) -> None:
    """Turn pictures with captions, conversations or texts into a tokenised set for training."""
    from tqdm import tqdm

    from liquid_mm.checkpoint import load_image_tokenizer
    from liquid_mm.data.tokenize import tokenize
    from liquid_mm.device import pick_device

    images = load_image_tokenizer(image_tokenizer).to(pick_device(device)) if image_tokenizer else None
    with tqdm(unit="record", desc=f"tokenising {source}") as bar:
        manifest = tokenize(
            source, images, out, size=size, batch_size=batch_size, max_rejects=max_rejects,
            progress=lambda kept, rejected: bar.update(kept + rejected - bar.n),
        )  # fmt: skip
    typer.echo(
        f"{out}: {manifest.records} records kept, {sum(manifest.rejected.values())} left out {dict(manifest.rejected)}"
    )


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="A tokenised set.")],
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help="Whose eyes to see it through.")] = None,
    record: Annotated[int, typer.Option("--record", "-r", help="Which record to show.")] = 0,
    reverse: Annotated[bool, typer.Option(help="Show a pair as picture → caption.")] = False,
    png: Annotated[Path | None, typer.Option(help="Also write it as a picture.")] = None,
) -> None:
    """Summarise a tokenised set; with a checkpoint, show one record the way the model sees it."""
    from liquid_mm.data.show import show_record, show_summary

    if checkpoint is None:
        return show_summary(data)
    from liquid_mm.checkpoint import load_checkpoint
    from liquid_mm.vocab.prompts import Renderer

    parts = load_checkpoint(checkpoint, device="cpu")
    renderer = Renderer(parts.tokenizer, parts.vocabulary)
    show_record(data, record, renderer, parts.image_tokenizer, reverse=reverse, png=png)
