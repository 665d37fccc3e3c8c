"""Every `liquid …` line in README, docs and recipes is one that the command line takes: names, options, arguments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from liquid_mm.cli import app
from liquid_mm.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "recipes/**/*.md", "recipes/**/*.yaml", "recipes/**/*.sh")
    for path in ROOT.glob(pattern)
    if path.name != "log.md"  # a diary: its commands are those of their day
)


def commands(path: Path) -> list[str]:
    """The lines of a file that are a whole command, comments and continuations taken care of."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.lstrip("# ") for line in text.splitlines()]
    return [part for line in lines if line.startswith("liquid ") for part in line.split(" && ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_parse(path):
    group = typer.main.get_command(app)
    for line in commands(path):
        if not re.match(r"liquid [a-z-]+ ", line) or "…" in line.split("#")[0]:
            continue
        command, words = group, shlex.split(line, comments=True)[1:]
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        try:
            command.make_context(command.name, words)
        except typer.Exit:
            pass  # --help, --version
        except UserError as error:
            if "there is no" not in str(error):  # what a command before it made
                raise
        except Exception as error:
            raise AssertionError(f"{line}: {getattr(error, 'message', error)}") from error


def test_there_are_commands_to_look_at():
    assert sum(len(commands(path)) for path in FILES) > 50
