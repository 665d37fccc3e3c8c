"""What training calls now and then: draw, describe and write with the model as it stands, always from the same seed.

FOLDER/pictures.png    a contact sheet of the fixed prompts
FOLDER/captions.txt    what the model says of each of these pictures
FOLDER/text.txt        a fixed opening, continued
"""

from __future__ import annotations

from pathlib import Path

from liquid_mm.checkpoint import Checkpoint
from liquid_mm.files import atomic_file
from liquid_mm.generate.demo import OPENING
from liquid_mm.generate.files import PROMPTS, save_sheet
from liquid_mm.generate.model import LiquidModel


def sample_hook(checkpoint: Checkpoint, step: int, folder: Path) -> None:
    """Write samples of `checkpoint` into the new `folder`; `train.run.OnSample`."""
    model = LiquidModel(checkpoint)
    pictures = model.generate_images(PROMPTS, seed=0)
    save_sheet(pictures, folder / "pictures.png")
    captions = [model.generate_text("", [picture.image], 24, top_k=1) for picture in pictures]
    lines = [f"{picture.prompt}: {caption}" for picture, caption in zip(pictures, captions, strict=True)]
    _write(folder / "captions.txt", "\n".join(lines))
    _write(folder / "text.txt", OPENING + model.generate_text(OPENING, max_new_tokens=48, top_k=50, seed=0))


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
