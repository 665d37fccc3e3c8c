"""Conversations in the terminal: pictures as half blocks where there are colours, paths everywhere."""

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.terminal import half_blocks, talk
from tiny_checkpoint import tiny_checkpoint


@pytest.fixture(scope="module")
def model() -> LiquidModel:
    return LiquidModel(tiny_checkpoint("gemma"), 4)


def conversation(model, monkeypatch, lines, out, **terminal) -> str:
    """What is printed when somebody types `lines`."""
    told = iter(lines)

    def typed(*_args, **_options):
        try:
            return next(told)
        except StopIteration:
            raise EOFError from None

    console = Console(file=io.StringIO(), width=80, **terminal)
    monkeypatch.setattr(console, "input", typed)
    talk(model, out, console, max_new_tokens=4, guidance_scale=1.0, seed=0)
    return console.file.getvalue()


def test_a_cell_is_two_pixels():
    image = Image.new("RGB", (2, 4), (255, 0, 0))
    image.putpixel((1, 1), (0, 0, 255))
    text = half_blocks(image)
    assert text.plain == "▀▀\n▀▀\n"
    assert [str(span.style) for span in text.spans[:2]] == ["#ff0000 on #ff0000", "#ff0000 on #0000ff"]
    assert len(half_blocks(Image.new("RGB", (640, 320)), 48).plain.splitlines()) == 12


@pytest.mark.parametrize(
    ("terminal", "shown"), [({"force_terminal": True, "color_system": "truecolor"}, True), ({}, False)]
)
def test_a_drawn_picture_is_written_and_shown_where_it_can_be(model, monkeypatch, tmp_path, terminal, shown):
    drawn = GeneratedImage(
        Image.new("RGB", (32, 32), (9, 8, 7)), model.encode_images([Image.new("RGB", (32, 32))])[0], "a", 3
    )
    heard = []

    def chat(messages, **options):
        heard.append((messages, options["seed"]))
        return ["Here: [bold]", drawn]

    monkeypatch.setattr(model, "chat", chat)
    printed = conversation(
        model, monkeypatch, ["Draw it.", "Again.", "/new", "Once more.", "/quit", "never"], tmp_path, **terminal
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_seed3.png", "a_seed3_2.png", "a_seed3_3.png"]
    assert [len(messages) for messages, _ in heard] == [1, 3, 1], "what was said is remembered until /new"
    assert [seed for _, seed in heard] == [0, 1, 3]
    assert heard[1][0][1]["content"][1]["image"] is drawn, "its own picture goes back as the codes it drew"
    assert "Here: [bold]" in printed
    assert ("\x1b[38;2;9;8;7;48;2;9;8;7m▀" in printed) == shown
    assert ("▀" in printed) == shown


def test_a_real_model_is_shown_a_picture_and_mistakes_end_nothing(model, monkeypatch, tmp_path):
    Image.new("RGB", (40, 24)).save(tmp_path / "my photo.png")
    lines = ["/image none.png", f"/image '{Path(tmp_path / 'my photo.png')}'", "What is it?", "a b " * 2000, "And now?"]
    printed = conversation(model, monkeypatch, lines, tmp_path / "out")
    assert "none.png" in printed
    assert "/new starts over." in printed
    assert len(printed.splitlines()) >= 4
