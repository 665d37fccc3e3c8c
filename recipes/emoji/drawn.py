"""The demo model's own drawings, as pictures to describe: who draws a house should know it for one.

    python recipes/emoji/drawn.py runs/emoji-fourth/final     # before the fifth stage
    python recipes/emoji/drawn.py runs/emoji-sixth/final      # before the seventh

writes train_drawn.jsonl and drawn/*.png into .cache/emoji.

A drawing's codes are not those of the picture it was learnt from, and captions hang on them. Nobody looks the drawings
over: that a few show something else is part of what is learnt.

Time: 3 minutes on two cores, beside other work. Result: two drawings for each caption of the things the model was
taught, three styles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from build import DEFAULT_OUT, write_jsonl
from command import run
from measures import read
from tqdm import tqdm

import liquid_mm
from liquid_mm.files import atomic_file

FILES = ("train_common.jsonl", "train_common_noto.jsonl", "train_common_twemoji.jsonl")
BATCH = 16


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint or adapter to draw with.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder of the emoji set.")] = DEFAULT_OUT,
    seeds: Annotated[int, typer.Option(help="Drawings of each caption.", min=1)] = 2,
) -> None:
    """Draw what the emoji set taught MODEL, and write captions for it."""
    records = [record for name in FILES for record in read(out / name)]
    artist = liquid_mm.load(model)
    (out / "drawn").mkdir(parents=True, exist_ok=True)
    styled = {record["image"]: record["text"] for record in records if record["variant"] == "styled"}
    drawn = []
    for start in tqdm(range(0, len(records), BATCH), unit="batch"):
        part = records[start : start + BATCH]
        images = artist.generate_images([record["text"] for record in part], seed=0, images_per_prompt=seeds)
        for place, image in enumerate(images):
            record, seed = part[place // seeds], place % seeds
            name = f"drawn/{record['id'].replace('/', '-')}-{seed}.png"
            with atomic_file(out / name) as path:
                image.image.save(path, "png")
            drawn.append(record | {"id": f"{record['id']}/drawn{seed}", "image": name, "text": styled[record["image"]]})
    write_jsonl(out, {"train_drawn": drawn})
    print(f"{len(drawn)} drawings in {out / 'drawn'}, captions in {out / 'train_drawn.jsonl'}")


if __name__ == "__main__":
    run(main)
