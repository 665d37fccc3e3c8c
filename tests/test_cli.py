"""The command line: light to start, and a sentence with exit code 2 for every mistake of the user's."""

import subprocess
import sys

import pytest
from PIL import Image

from liquid_mm import cli


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of `liquid ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["liquid", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, liquid_mm.cli\n"
        "try:\n    sys.argv[1:] = ['--help']; liquid_mm.cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train-tokenizer" in done.stdout


MISTAKES = {
    "no checkpoint": (["generate", "{tmp}/none", "a red apple"], "there is no checkpoint folder"),
    "another layout": (["generate", "{tmp}", "a red apple"], "has no liquid.json"),
    "bad size": (["generate", "{tmp}", "a red apple", "--size", "64"], "'64' is not a size"),
    "no recipe": (["train", "{tmp}/none.yaml"], "there is no recipe"),
    "unknown key": (["train", "{tmp}/recipe.yaml"], "did you mean 'new_rows_lr'"),
    "bad override": (["train", "{tmp}/recipe.yaml", "steps"], "not of the form key=value"),
    "no base": (["extend", "{tmp}/none", "-t", "{kit}/vqgan", "-o", "{tmp}/out"], "none"),
    "no image tokenizer": (["extend", "{kit}/lm", "-t", "{tmp}", "-o", "{tmp}/out"], "holds no image tokenizer"),
    "unknown init": (["extend", "{kit}/lm", "-t", "{kit}/vqgan", "-o", "{tmp}/out", "--init", "noise"], "mean-noise"),
    "no source": (["tokenize", "{tmp}/none.jsonl", "-o", "{tmp}/out"], "none.jsonl"),
    "no set": (["inspect", "{tmp}/none"], "none"),
    "no release": (["import", "--llm", "{tmp}", "--vqgan", "{tmp}", "-o", "{tmp}/out"], "{tmp}"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_a_sentence(name, monkeypatch, capsys, tmp_path, parity):
    (tmp_path / "recipe.yaml").write_text(
        "model: a\noutput: b\nsteps: 1\nnew_row_lr: 1\ndata: {seq_len: 8, batch_size: 1, sources: [{path: x}]}\n"
    )
    arguments, message = MISTAKES[name]
    places = {"tmp": tmp_path, "kit": parity}
    code, _, error = run(monkeypatch, capsys, *[argument.format(**places) for argument in arguments])
    assert code == 2
    assert message.format(**places) in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, parity):
    """The parity kit's random model, imported: it draws noise, by every rule."""
    from liquid_mm import import_release

    out = tmp_path_factory.mktemp("model") / "checkpoint"
    import_release(parity / "lm", parity / "vqgan", out)
    return out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--guidance", "0.5"], "guidance_scale is 0.5"),
        (["--top-k", "0"], "top_k is 0"),
        (["--size", "100x64"], "multiples of 16"),
        (["--temperature", "0"], "temperature"),
        (["--number", "0"], "'--number'"),
    ],
)
def test_values_out_of_range_are_named(option, message, checkpoint, monkeypatch, capsys, tmp_path):
    code, _, error = run(monkeypatch, capsys, "generate", checkpoint, "a red apple", "-o", tmp_path / "out", *option)
    assert (code, message in error) == (2, True)
    assert not (tmp_path / "out").exists()


def test_generate_writes_pictures_that_know_their_prompt(checkpoint, monkeypatch, capsys, tmp_path):
    arguments = [
        "generate",
        checkpoint,
        "A red apple!",
        "two cats",
        "--size",
        "64x32",
        "--seed",
        3,
        "-n",
        2,
        "-o",
        tmp_path,
    ]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    names = [
        "a-red-apple_seed3.png",
        "a-red-apple_seed4.png",
        "two-cats_seed3.png",
        "two-cats_seed4.png",
        "contact_sheet.png",
    ]
    assert out.split() == [str(tmp_path / name) for name in names]
    with Image.open(tmp_path / names[1]) as picture:
        assert (picture.size, picture.text) == ((64, 32), {"prompt": "A red apple!", "seed": "4"})


def test_describe_write_and_chat_answer(checkpoint, monkeypatch, capsys, tmp_path, parity):
    image = parity / "images" / "wide.png"
    code, out, _ = run(monkeypatch, capsys, "describe", checkpoint, image, "--max-new-tokens", 4, "--seed", 0)
    assert (code, out.startswith(f"{image}: ")) == (0, True)
    code, out, _ = run(monkeypatch, capsys, "write", checkpoint, "Once upon", "--max-new-tokens", 4, "--seed", 0)
    assert (code, out.startswith("Once upon")) == (0, True)
    code, _, _ = run(
        monkeypatch,
        capsys,
        "chat",
        checkpoint,
        "What?",
        "-i",
        image,
        "--max-new-tokens",
        4,
        "--seed",
        0,
        "-o",
        tmp_path,
    )
    assert code == 0


def test_a_model_is_not_extended_twice(checkpoint, monkeypatch, capsys, tmp_path, parity):
    arguments = ["extend", checkpoint, "-t", parity / "vqgan", "-o", tmp_path / "out"]
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert (code, "is extended already" in error) == (2, True)
