"""The tour of `liquid demo`: one model draws, describes what it sees, and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from liquid_mm.generate.files import PROMPTS, draw, file_name, save_picture, save_sheet
from liquid_mm.generate.model import LiquidModel

GUIDANCE = 3.0
"""What suits the small demo model; large ones take the paper's 7."""

OPENING = "The old lighthouse keeper looked at the sea and"


def run_demo(model: LiquidModel, out: Path, images: Sequence[Path] = (), seed: int = 0) -> None:
    """Draw the fixed prompts, describe `images` (by default the pictures just drawn), continue a text; say where."""
    console = Console()
    console.rule("[bold]1. It draws")
    pictures = draw(model, PROMPTS, guidance_scale=GUIDANCE, seed=seed)
    drawn = [save_picture(picture, out / file_name(picture.prompt, picture.seed)) for picture in pictures]
    sheet = save_sheet(pictures, out / "contact_sheet.png")
    console.print(f"{len(drawn)} pictures in {out}/, all of them on {sheet}")
    console.rule("[bold]2. It sees")
    for image in images or drawn:
        console.print(f"{image}: [bold]{model.generate_text('', [image], 24, top_k=1)}", highlight=False)
    console.rule("[bold]3. It writes")
    text = model.generate_text(OPENING, max_new_tokens=48, top_k=50, seed=seed)
    console.print(f"{OPENING}[bold]{text}", highlight=False)
