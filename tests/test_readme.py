"""The README's snippets run as they stand, with the demo model."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from liquid_mm import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [line for _, text in BLOCKS for line in text.splitlines() if re.match(r"liquid \w+ demo ", line)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("source", PYTHON)
def test_python_snippets_run(source, capsys):
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out
    with Image.open("apple.png") as picture:
        assert picture.size == (64, 64)


def test_commands_with_the_demo_run(monkeypatch, capsys):
    assert len(COMMANDS) >= 4
    for command in COMMANDS:  # in order: one draws what the next describes
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, command
    assert len(list(Path("pictures").glob("*.png"))) >= 3
    assert "a-red-apple-3d-style_seed0.png: " in capsys.readouterr().out


def test_every_command_in_the_readme_exists():
    named = {name for _, text in BLOCKS for name in re.findall(r"^liquid ([\w-]+)", text, flags=re.MULTILINE)}
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert named
    assert named <= known
