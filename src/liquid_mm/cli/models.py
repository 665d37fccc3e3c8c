"""Commands that make a model out of others: extend, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Out, Tokenizer


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
