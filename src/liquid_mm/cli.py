"""The command `liquid`: a table of subcommands, each a few lines that call the library. No logic lives here.

Heavy imports happen inside the commands, so that `liquid --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.errors import UserError

app = typer.Typer(
    name="liquid",
    help="One language model that reads, writes, sees and draws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size: write width x height in pixels, as in 512x512.")
    return int(width), int(height)


Checkpoint = Annotated[str, typer.Argument(help="A Liquid checkpoint folder, or 'demo' for the model that ships.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Recipe = Annotated[Path, typer.Argument(help="A YAML recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key=value or key.sub=value.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in that folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; by default the best there is.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default what the device is good at.")]
Seed = Annotated[int | None, typer.Option(help="Makes the result repeatable.")]
Size = Annotated[Any, typer.Option(metavar="WxH", parser=_size, help="Pixels; by default the model's own.")]
Tokenizer = Annotated[Path, typer.Option("--image-tokenizer", "-t", help="An image tokenizer folder.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="Of the sampling; lower is safer.")]
TopK = Annotated[int, typer.Option(help="Choose among that many likeliest tokens; 1 is greedy.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens that hold this much probability.")]
Guidance = Annotated[float, typer.Option(help="How strongly pictures follow the prompt; 1 is no guidance, and faster.")]


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


@app.command()
def extend(
    base: Annotated[
        str, typer.Argument(help="Hub id, folder, GGUF file, or package:NAME/FILE of an installed package.")
    ],
    image_tokenizer: Tokenizer,
    out: Out,
    init: Annotated[str, typer.Option(help="How new rows start: codebook, mean-noise or transformers.")] = "codebook",
    dtype: Annotated[str, typer.Option(help="Of the weights written.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the new rows.")] = 0,
) -> None:
    """Grow any causal language model by image codes: the start of a Liquid model."""
    from liquid_mm import extend as run

    vocabulary = run(base, image_tokenizer, out, init=init, dtype=dtype, seed=seed)
    typer.echo(
        f"{out}: {vocabulary.size} ids, image codes {vocabulary.code_offset}…{vocabulary.size - 1}, "
        f"<boi> {vocabulary.boi}, <eoi> {vocabulary.eoi}, <unconditional> {vocabulary.unconditional}"
    )


@app.command("import")
def import_(
    llm: Annotated[str, typer.Option(help="Folder or Hub id of the released language model.")],
    vqgan: Annotated[Path, typer.Option(help="Folder with vqgan.yaml and vqgan.ckpt.")],
    out: Out,
) -> None:
    """Turn the released layout (language model + Chameleon's VQGAN) into one checkpoint folder."""
    from liquid_mm import import_release

    import_release(llm, vqgan, out)
    typer.echo(f'{out} is ready: try `liquid generate {out} "a red apple"`.')


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


def main() -> None:
    """Run the command line: a user's mistake ends in one sentence and exit code 2, never in a traceback."""
    # Other libraries' progress bars and notes would bury ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        app()
    except UserError as error:
        print(f"liquid: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
