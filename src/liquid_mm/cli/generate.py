"""Commands that run a model: demo, generate, describe, write, chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)


@app.command()
def demo(
    out: Out = Path("out"),
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Describe this picture; may be repeated.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Another model than the one that ships.")] = "demo",
    seed: Annotated[int, typer.Option(help="Of the pictures.")] = 0,
) -> None:
    """Draw, describe and write with the model that ships: pictures, a contact sheet, captions, a text."""
    from liquid_mm import load
    from liquid_mm.generate.demo import run_demo

    run_demo(load(checkpoint), out, image or (), seed)


@app.command()
def generate(
    checkpoint: Checkpoint,
    prompts: Annotated[list[str], typer.Argument(help="What to draw; each prompt gives pictures of its own.")],
    out: Out = Path("out"),
    size: Size = None,
    number: Annotated[int, typer.Option("--number", "-n", help="Pictures per prompt.")] = 1,
    guidance: Guidance = 7.0,
    temperature: Temperature = 0.99,
    top_k: TopK = 4096,
    top_p: TopP = 0.96,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Draw pictures from descriptions."""
    from liquid_mm import load
    from liquid_mm.generate.files import draw_files

    for path in draw_files(
        load(checkpoint, device=device, dtype=dtype), prompts, out,
        size=size, guidance_scale=guidance, temperature=temperature,
        top_k=top_k, top_p=top_p, seed=seed, images_per_prompt=number,
    ):  # fmt: skip
        typer.echo(path)


@app.command()
def describe(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Pictures to describe.")],
    question: Annotated[str, typer.Option("--question", "-q", help="Ask this instead of describing.")] = "",
    max_new_tokens: MaxTokens = 64,
    temperature: Temperature = 0.7,
    top_k: TopK = 1,
    top_p: TopP = 0.9,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Describe pictures, or answer a question about each."""
    from liquid_mm import load

    model = load(checkpoint, device=device, dtype=dtype)
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
) -> None:
    """Continue a text."""
    from liquid_mm import load

    model = load(checkpoint, device=device, dtype=dtype)
    typer.echo(prompt + model.generate_text(prompt, (), max_new_tokens, temperature, top_k, top_p, seed))


@app.command()
def chat(
    checkpoint: Checkpoint,
    message: Annotated[str, typer.Argument(help="What to say.")],
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="A picture to show; may be repeated.")
    ] = None,
    out: Out = Path("out"),
    max_new_tokens: MaxTokens = 256,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.9,
    guidance: Guidance = 7.0,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Say something, with or without pictures; the reply may hold text and pictures."""
    from liquid_mm import load
    from liquid_mm.generate.files import chat_files

    for part in chat_files(
        load(checkpoint, device=device, dtype=dtype), message, image or (), out,
        max_new_tokens=max_new_tokens, guidance_scale=guidance, temperature=temperature, top_p=top_p, seed=seed,
    ):  # fmt: skip
        typer.echo(part)
