"""Commands and code of a document, run as they stand there, in this process and in the current folder."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

import torch
from transformers import PreTrainedModel
from typer.testing import CliRunner

from liquid_mm.cli import app
from tiny import tiny_base


def commands(block: str) -> list[list[str]]:
    """The arguments of each `liquid …` line, its comment left out; "\\" joins a line with the next."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("liquid ")]


def liquid(arguments: list[str]) -> str:
    """What the command prints; an error of any kind is raised."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"liquid {shlex.join(arguments)}\n{result.output}"
    return result.output


def run_python(source: str, namespace: dict) -> str:
    """Execute `source` in `namespace`; returns what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, "document", "exec"), namespace)
    return said.getvalue()


def save_tiny_base(folder: Path, family: str = "smollm") -> None:
    """A tiny random language model with its text tokenizer, as a plain folder."""
    llm, tokenizer = tiny_base(family)
    assert isinstance(llm, PreTrainedModel)
    with torch.no_grad():
        llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def metrics(run: Path) -> list[dict]:
    """The reports of a training run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
