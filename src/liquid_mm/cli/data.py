"""Commands about data: tokenize, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Device, Out, parse_size
from liquid_mm.errors import UserError


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(parse_size(part.strip()) for part in text.split(","))


@app.command()
def tokenize(
    source: Annotated[str, typer.Argument(help="A file, folder or address (s3://, gs://, hf://), or a Hub id.")],
    out: Out,
    image_tokenizer: Annotated[
        Path | None, typer.Option("--image-tokenizer", "-t", help="Encodes the pictures; not needed for text alone.")
    ] = None,
    sizes: Annotated[
        Any, typer.Option(metavar="WxH,WxH…", parser=_sizes, help="Pixels; each picture gets the one nearest in shape.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Where relative picture paths start; else at their file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures of one size encoded together.")] = 16,
    max_rejects: Annotated[float, typer.Option(help="Share of unusable records above which the command fails.")] = 0.05,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Run on Ray: one actor per GPU, or per CPU.")] = False,
    workers: Annotated[int | None, typer.Option(help="Ray actors, if not one per GPU.")] = None,
) -> None:
    """Turn pictures with captions, conversations or texts into a tokenised set for training."""
    from tqdm import tqdm

    from liquid_mm.checkpoint import load_image_tokenizer
    from liquid_mm.data.tokenize import tokenize
    from liquid_mm.device import pick_device

    # Ray's actors choose a device each for themselves.
    place = "cpu" if cluster else pick_device(device)
    encoder = load_image_tokenizer(image_tokenizer).to(place) if image_tokenizer else None
    with tqdm(unit="record", desc=f"tokenising {source}") as bar:
        manifest = tokenize(
            source, encoder, out, sizes=sizes or (), images=images, batch_size=batch_size, max_rejects=max_rejects,
            resume=resume, cluster=cluster, workers=workers,
            progress=lambda kept, rejected: bar.update(kept + rejected - bar.n),
        )  # fmt: skip
    typer.echo(
        f"{out}: {manifest.records} records kept, {sum(manifest.rejected.values())} left out {dict(manifest.rejected)}"
    )


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="A tokenised set; or RUN/bad/step-N.json, what a bad step read.")],
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help="Whose eyes to see it through.")] = None,
    image_tokenizer: Annotated[
        Path | None, typer.Option("--image-tokenizer", "-t", help="Decodes the pictures, where no checkpoint does.")
    ] = None,
    record: Annotated[int | None, typer.Option("--record", "-r", help="Show one record instead of the whole.")] = None,
    reverse: Annotated[bool, typer.Option(help="Show a pair as picture → caption.")] = False,
    png: Annotated[Path | None, typer.Option(help="Also write the record as a picture.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with charts and pictures.")] = None,
) -> None:
    """Describe a tokenised set; with a checkpoint, also as the model sees it: its tokens, or one record."""
    from liquid_mm.checkpoint import load_checkpoint, load_image_tokenizer
    from liquid_mm.data.show import show_record, show_step, show_summary
    from liquid_mm.vocab.prompts import Renderer

    alone = record is not None or reverse or png is not None
    if alone and not checkpoint and data.suffix != ".json":
        raise UserError("--record, --reverse and --png show a record as a model sees it: say which with --checkpoint.")
    if alone and html:
        raise UserError("--html is a report on the whole set: leave out --record, --reverse and --png.")
    parts = load_checkpoint(checkpoint, device="cpu") if checkpoint else None
    renderer = Renderer(parts.tokenizer, parts.vocabulary) if parts else None
    decoder = parts.image_tokenizer if parts else None
    if image_tokenizer:
        decoder = load_image_tokenizer(image_tokenizer)
    if data.suffix == ".json":
        return show_step(data, renderer, decoder, number=record or 0, png=png)
    if renderer is None or not alone:
        return show_summary(data, renderer, decoder, html=html)
    show_record(data, record or 0, renderer, decoder, reverse=reverse, png=png)
