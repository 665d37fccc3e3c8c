"""Two adapters averaged, number by number: what a last stage taught, and less of what it took.

    python recipes/emoji/average.py runs/emoji-counting-short/adapter runs/emoji-counting/adapter -o runs/emoji-average

One must have started from the other, or both from the same: only then do the factors of their LoRA matrices stand for
the same thing, so that averaging them is close to averaging the weights (Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482, average fine-tunings of one start). PEFT's `add_weighted_adapter` is for adapters with
nothing in common: "linear" at half and half gives twice the update of two equal ones, "svd" factors it anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from command import run
from safetensors.torch import load_file, save_file

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, read_json

LORA = "adapter/adapter_config.json"
WEIGHTS = ("adapter/adapter_model.safetensors", "rows.safetensors")


def average(first: Path, second: Path, out: Path, share: float) -> None:
    """Write the adapter folder `out`: `first` × (1 - `share`) + `second` × `share`, computed in float32.

    Raises:
        UserError: the folders are of different vocabularies or kinds of LoRA, a file is missing, or `out` exists.
    """
    if read_json(first / "liquid.json")["vocabulary"] != read_json(second / "liquid.json")["vocabulary"]:
        raise UserError(f"{first} and {second} have different vocabularies: only runs of one base can be averaged.")
    if read_json(first / LORA) != read_json(second / LORA):
        raise UserError(f"{first / LORA} and {second / LORA} differ: rank, scale and layers must be the same.")
    with atomic_dir(out) as part:
        shutil.copytree(second, part, dirs_exist_ok=True)
        for name in WEIGHTS:
            ours, theirs = load_file(first / name), load_file(second / name)
            mixed = {
                key: value.float().lerp(theirs[key].float(), share).to(value.dtype)
                if value.is_floating_point()
                else value
                for key, value in ours.items()
            }
            save_file(mixed, part / name)


def main(
    first: Annotated[Path, typer.Argument(help="Adapter folder of one run.")],
    second: Annotated[Path, typer.Argument(help="Adapter folder of another; its settings are taken.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New adapter folder.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="How much of the second.")] = 0.5,
) -> None:
    """Average the adapters of two runs that share a start."""
    average(first, second, out, share)


if __name__ == "__main__":
    run(main)
