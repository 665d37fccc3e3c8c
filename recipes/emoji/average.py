"""Two stages' adapters averaged, number by number: what a last stage taught, and less of what it took.

    python recipes/emoji/average.py runs/emoji-joint/adapter runs/emoji-counting/adapter -o runs/emoji-average

Both must be stages of one training, the second started from the first: only then do the factors of their LoRA matrices
stand for the same thing, so that averaging them is close to averaging the weights (Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482, average fine-tunings of one start).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from command import run
from safetensors.torch import load_file, save_file
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, read_json

WEIGHTS = ("adapter/adapter_model.safetensors", "rows.safetensors")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def average(first: Path, second: Path, out: Path, share: float) -> None:
    """Write the adapter folder `out`: `first` × (1 - `share`) + `second` × `share`, computed in float32.

    Raises:
        UserError: the folders differ in what they hold, or `out` exists.
    """
    if read_json(first / "liquid.json")["vocabulary"] != read_json(second / "liquid.json")["vocabulary"]:
        raise UserError(
            f"{first} and {second} have different vocabularies: only stages of one training can be averaged."
        )
    with atomic_dir(out) as part:
        shutil.copytree(second, part, dirs_exist_ok=True)
        for name in WEIGHTS:
            ours, theirs = load_file(first / name), load_file(second / name)
            if _shapes(ours) != _shapes(theirs):
                raise UserError(f"{first / name} and {second / name} differ in shape: the ranks must be the same.")
            mixed = {
                key: value.float().lerp(theirs[key].float(), share).to(value.dtype)
                if value.is_floating_point()
                else value
                for key, value in ours.items()
            }
            save_file(mixed, part / name)


def main(
    first: Annotated[Path, typer.Argument(help="Adapter folder of the earlier stage.")],
    second: Annotated[Path, typer.Argument(help="Adapter folder of the later stage; its settings are taken.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New adapter folder.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="How much of the later stage.")] = 0.5,
) -> None:
    """Average the adapters of two stages of one training."""
    average(first, second, out, share)


if __name__ == "__main__":
    run(main)
