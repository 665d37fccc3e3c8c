"""Commands that run a model: demo, generate, edit, describe, write, chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    Guidance,
    MaxTokens,
    Out,
    Seed,
    Size,
    Temperature,
    TopK,
    TopP,
    pictures,
)
from liquid_mm.errors import UserError

MANY = 1000
"""Pictures that are drawn before the first is written."""

Quantization = Annotated[str | None, typer.Option(help="int8 or int4 weights: smaller, a little less exact.")]


@app.command()
def demo(
    out: Out = Path("out"),
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", callback=pictures, help="Describe this picture; may be repeated."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Another model than the one that ships.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures.")] = 0,
) -> None:
    """Draw, describe and write with the model that ships: pictures, a contact sheet, captions, a text."""
    from liquid_mm import load
    from liquid_mm.generate.demo import run_demo

    run_demo(load(checkpoint), out, image or (), seed)


@app.command()
def generate(
    checkpoint: Checkpoint,
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw; each gives pictures of its own.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts", help='Long work: a file of lines {"prompt": …}, gone on with where it was stopped.'),
    ] = None,
    out: Out = Path("out"),
    size: Size = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Pictures per prompt.")] = 1,
    guidance: Guidance = None,
    temperature: Temperature = 0.99,
    top_k: TopK = 4096,
    top_p: TopP = 0.96,
    seed: Seed = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Spread --prompts over Ray: one actor per GPU, or machine.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors, if not one per GPU.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Draw pictures from descriptions.

    With --prompts each picture is written as it finishes, beside a manifest; the same command goes on after a stop.
    """
    if bool(prompts) == bool(prompts_file):
        raise UserError("say what to draw: either prompts, or a file of them with --prompts.")
    if cluster and not prompts_file:
        raise UserError("--cluster spreads a file of prompts over machines: give one with --prompts.")
    if cluster and device:
        raise UserError("with --cluster every actor takes the device it is given: leave out --device.")
    if workers and not cluster:
        raise UserError("--workers counts the actors of --cluster: give both.")
    if prompts and number * len(prompts) > MANY:
        raise UserError(
            f"{number * len(prompts)} pictures at a time are too many: up to {MANY} are kept until all are done. "
            "Give the prompts in a file with --prompts: each picture is written when it is finished."
        )
    options = {"size": size, "guidance_scale": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    weights: dict[str, Any] = {"dtype": dtype, "quantization": quantization}
    from liquid_mm import load

    if prompts_file:
        options |= {"seed": seed or 0, "number": number}
        try:
            if cluster:
                from liquid_mm.generate.cluster import draw_on_ray

                return typer.echo(draw_on_ray(checkpoint, prompts_file, out, workers=workers, **weights, **options))
            from liquid_mm.generate.jobs import draw_job

            model = load(checkpoint, device=device, **weights)
            return typer.echo(draw_job(model, prompts_file, out, **options))
        except KeyboardInterrupt:
            typer.echo(f"stopped; what is complete is in {out}. The same command goes on from there.", err=True)
            raise typer.Exit(130) from None
    from liquid_mm.generate.files import draw_files

    model = load(checkpoint, device=device, **weights)
    try:
        for path in draw_files(model, prompts or (), out, seed=seed, images_per_prompt=number, **options):
            typer.echo(path)
    except KeyboardInterrupt:
        typer.echo("stopped. With --prompts FILE pictures are kept as they finish.", err=True)
        raise typer.Exit(130) from None


def _keep(text: str) -> tuple[int, int, int, int] | Path:
    numbers = text.split(",")
    if len(numbers) == 4 and all(number.strip().removeprefix("-").isdecimal() for number in numbers):
        left, top, right, bottom = map(int, numbers)
        return left, top, right, bottom
    return Path(text)


@app.command()
def edit(
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(callback=pictures, help="The picture; scaled and cut to --size.")],
    keep: Annotated[
        Any,
        typer.Option(
            metavar="BOX|MASK",
            parser=_keep,
            help="What stays: left,top,right,bottom in pixels, or a picture of the same size, white where it stays.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Describes the whole picture.")],
    out: Out = Path("out"),
    size: Size = None,
    guidance: Guidance = None,
    temperature: Temperature = 0.99,
    top_k: TopK = 4096,
    top_p: TopP = 0.96,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Keep a part of a picture and draw the rest anew.

    The model draws row by row, from the prompt and from what lies above and to the left. What is kept below or to the
    right of a hole stays, but does not influence what is drawn in it.
    """
    from liquid_mm import load
    from liquid_mm.generate.files import save_pictures

    model = load(checkpoint, device=device, dtype=dtype, quantization=quantization)
    picture = model.edit_image(image, prompt, keep, size, guidance, temperature, top_k, top_p, seed)
    typer.echo(save_pictures([picture], out)[0])


@app.command()
def describe(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(callback=pictures, help="Pictures to describe.")],
    question: Annotated[str, typer.Option("--question", "-q", help="Ask this instead of describing.")] = "",
    max_new_tokens: MaxTokens = 64,
    temperature: Temperature = 0.7,
    top_k: TopK = 1,
    top_p: TopP = 0.9,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Describe pictures, or answer a question about each."""
    from liquid_mm import load

    model = load(checkpoint, device=device, dtype=dtype, quantization=quantization)
    for image in images:
        typer.echo(
            f"{image}: " + model.generate_text(question, [image], max_new_tokens, temperature, top_k, top_p, seed)
        )


@app.command()
def write(
    checkpoint: Checkpoint,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_new_tokens: MaxTokens = 128,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 0.9,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Continue a text."""
    from liquid_mm import load

    model = load(checkpoint, device=device, dtype=dtype, quantization=quantization)
    typer.echo(prompt + model.generate_text(prompt, (), max_new_tokens, temperature, top_k, top_p, seed))


@app.command()
def chat(
    checkpoint: Checkpoint,
    message: Annotated[
        str | None, typer.Argument(help="What to say; without it a conversation begins, until Ctrl-D.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", callback=pictures, help="A picture to show; may be repeated.")
    ] = None,
    out: Out = Path("out"),
    max_new_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.9,
    guidance: Guidance = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Talk with text and pictures in both directions; the terminal shows the pictures if it has the colours.

    Pictures of the reply are written to --out.
    """
    if message is None and image:
        raise UserError("say something about the picture, or add it in the conversation with /image.")
    from rich.console import Console

    from liquid_mm import load
    from liquid_mm.generate.files import chat_files
    from liquid_mm.generate.terminal import show, talk

    options = {
        "max_new_tokens": max_new_tokens,
        "guidance_scale": guidance,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    model, console = load(checkpoint, device=device, dtype=dtype, quantization=quantization), Console()
    if message is None:
        return talk(model, out, console, **options)
    for part, picture in chat_files(model, message, image or (), out, **options):
        show(console, part, picture)
