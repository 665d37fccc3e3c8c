"""Generation whose results are files: what the command line and training's samples are made of."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from liquid_mm.files import atomic_file
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import Event
from liquid_mm.generate.sheet import contact_sheet

PROMPTS = ("a red apple", "a cat face", "a red heart", "the sun", "a rocket", "a house", "a pizza", "a butterfly")
"""A fixed list: what samples during training and the demo show is never picked by hand."""


def png(picture: GeneratedImage) -> bytes:
    """A PNG that carries the prompt and seed it was drawn from."""
    info = PngInfo()
    info.add_itxt("prompt", picture.prompt)
    info.add_text("seed", str(picture.seed))
    content = io.BytesIO()
    picture.image.save(content, "PNG", pnginfo=info)
    return content.getvalue()


def save_picture(picture: GeneratedImage, path: Path) -> Path:
    """Write `png(picture)`; returns `path`."""
    with atomic_file(path) as part:
        part.write_bytes(png(picture))
    return path


def file_name(prompt: str, seed: int) -> str:
    """A file name that says what it shows.

    >>> file_name("A red apple, 3D style!", 7)
    'a-red-apple-3d-style_seed7.png'
    """
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60]
    # File systems allow 255 bytes, of which the name of a file that is being written needs some more.
    words = words.encode()[:150].decode(errors="ignore") or "picture"
    return f"{words}_seed{seed}.png"


def save_pictures(pictures: Sequence[GeneratedImage], out: Path) -> list[Path]:
    """Write `pictures` into `out`, none over another although two may ask for one name; returns their paths."""
    names: list[str] = []
    for picture in pictures:
        name = first = Path(file_name(picture.prompt, picture.seed))
        number = 1
        while str(name) in names:
            number += 1
            name = first.with_stem(f"{first.stem}_{number}")
        names.append(str(name))
    return [save_picture(picture, out / name) for picture, name in zip(pictures, names, strict=True)]


def draw(model: LiquidModel, prompts: Sequence[str], **options: Any) -> list[GeneratedImage]:
    """`model.generate_images` with a progress bar."""
    rows, columns = model.vocabulary.grid(options.get("size") or model.vocabulary.resolution)
    pictures = len(prompts) * options.get("images_per_prompt", 1)
    with tqdm(total=pictures * rows * columns, unit="code", desc=f"drawing {pictures} pictures") as bar:
        return model.generate_images(prompts, on_event=lambda event: advance(bar, event), **options)


def draw_files(model: LiquidModel, prompts: Sequence[str], out: Path, **options: Any) -> Iterator[Path]:
    """Draw `prompts` and write each picture into `out`; the paths, and a contact sheet's when there are several."""
    pictures = draw(model, prompts, **options)
    yield from save_pictures(pictures, out)
    if len(pictures) > 1:
        yield save_sheet(pictures, out / "contact_sheet.png")


def save_sheet(pictures: Sequence[GeneratedImage], path: Path) -> Path:
    """Write a contact sheet of `pictures`; returns `path`."""
    with atomic_file(path) as part:
        contact_sheet([(picture.image, picture.prompt) for picture in pictures]).save(part, "PNG")
    return path


def chat_files(
    model: LiquidModel, message: str, images: Sequence[Path], out: Path, **options: Any
) -> Iterator[tuple[str, Image.Image | None]]:
    """Say something and yield the reply's parts: texts, and the paths pictures were written to with the pictures."""
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": message}]
    parts = model.chat([{"role": "user", "content": content}], **options)
    paths = iter(save_pictures([part for part in parts if not isinstance(part, str)], out))
    for part in parts:
        yield (part, None) if isinstance(part, str) else (str(next(paths)), part.image)


def advance(bar: Any, event: Event) -> None:
    """Move a progress bar over codes."""
    if event.modality == "image":
        bar.update()
