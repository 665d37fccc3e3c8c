"""The tour of `liquid demo`: one model draws, describes what it sees, and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from liquid_mm.generate.files import PROMPTS, draw, save_pictures, save_sheet
from liquid_mm.generate.model import LiquidModel

OPENING = "The old lighthouse keeper looked at the sea and"


def run_demo(model: LiquidModel, out: Path, images: Sequence[Path] = (), seed: int = 0) -> None:
    """Draw the fixed prompts, describe `images` (by default the pictures just drawn), continue a text; say where."""
    console = Console()
    console.rule("[bold]1. It draws")
    pictures = draw(model, PROMPTS, seed=seed)
    drawn = save_pictures(pictures, out)
    sheet = save_sheet(pictures, out / "contact_sheet.png")
    console.print(f"{len(drawn)} pictures in {out}/, all of them on {sheet}")
    console.rule("[bold]2. It sees")
    for image in images or drawn:
        # As Text: what a model writes may hold brackets that rich would take for markup.
        console.print(Text.assemble(f"{image}: ", (model.generate_text("", [image], 24, top_k=1), "bold")))
    console.rule("[bold]3. It writes")
    text = model.generate_text(OPENING, max_new_tokens=48, top_k=50, seed=seed)
    console.print(Text.assemble(OPENING, (text, "bold")))
