"""The commands about data, as a user types them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from datakit import picture

from liquid_mm import cli
from liquid_mm.data.dataset import TokenizedSet


@pytest.fixture
def liquid(monkeypatch, capsys):
    """Runs `liquid ARGUMENTS` and returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["liquid", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def captioned(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(40, 40), (60, 40), (40, 60)]):
        picture(number, size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"disc {number}")
    return folder


def test_tokenize_and_inspect(liquid, captioned, tmp_path, parity):
    sizes = "32x32, 48x32,32x48"
    code, out, error = liquid(
        "tokenize", captioned, "-t", parity / "vqgan", "-o", tmp_path / "set", "--sizes", sizes, "--device", "cpu"
    )
    assert (code, "3 records kept, 0 left out" in out) == (0, True), error
    assert TokenizedSet(tmp_path / "set").manifest.sizes == {"32x32": 1, "32x48": 1, "48x32": 1}
    code, out, error = liquid("inspect", tmp_path / "set", "-t", parity / "vqgan", "--html", tmp_path / "report.html")
    assert (code, "code perplexity" in out) == (0, True), error
    assert (tmp_path / "report.html").read_text().count('src="data:image/png') == 3


@pytest.mark.parametrize(
    ("sizes", "says"), [("32x32,48", "'48' is not a size"), ("40x32", "multiples of 16"), ("", "is not a size")]
)
def test_sizes_that_cannot_be_are_named(liquid, captioned, tmp_path, parity, sizes, says):
    code, _, error = liquid(
        "tokenize", captioned, "-t", parity / "vqgan", "-o", tmp_path / "set", "--sizes", sizes, "--device", "cpu"
    )
    assert (code, says in error) == (2, True), error


def test_pictures_may_be_looked_for_elsewhere(liquid, jsonl, captioned, tmp_path, parity):
    path = jsonl({"image": "0.png", "text": "disc 0"}, name="captions.jsonl")
    arguments = ("tokenize", path, "-t", parity / "vqgan", "-o", tmp_path / "set", "--device", "cpu")
    code, _, error = liquid(*arguments)
    assert (code, "no usable record" in error) == (2, True)
    code, out, _ = liquid(*arguments, "--images", captioned)
    assert (code, "1 records kept" in out) == (0, True)
