"""`liquid scaling` with real models and real training, as small as they come."""

import json
import sys

import pytest
from PIL import Image
from scalingkit import write_run

from liquid_mm import cli
from liquid_mm.data.tokenize import tokenize
from liquid_mm.scaling.collect import collect
from tiny import tiny_base
from tiny_checkpoint import tiny_vqgan

GRID = """
recipe: {root}/train.yaml
output: {root}/study
image_tokenizer: {root}/vqgan
text_tokenizer: {root}/base
sizes:
  tiny:
    shape: {{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, tie_word_embeddings: true}}
mixes:
  t2i: {{sources: [{{path: {root}/data}}]}}
cells:
  - {{sizes: [tiny], mixes: [t2i]}}
"""  # noqa: E501

RECIPE = """
model: set-by-grid
output: set-by-grid
steps: 3
lr: 0.01
log_every: 1
validate_every: 3
data: {{seq_len: 128, batch_size: 2, sources: [{{path: set-by-grid}}]}}
validation: {{seq_len: 128, batch_size: 2, sources: [{{path: {root}/data}}]}}
"""


def liquid(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of `liquid ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["liquid", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    for part in tiny_base("smollm"):
        part.save_pretrained(folder / "base")
    images = tiny_vqgan()
    images.save(folder / "vqgan")
    records = [
        {"id": str(i), "image": Image.new("RGB", (32, 32), (20 * i, 0, 0)), "text": f"number {i}"} for i in range(6)
    ]
    tokenize(records, images, folder / "data")
    (folder / "grid.yaml").write_text(GRID.format(root=folder))
    (folder / "train.yaml").write_text(RECIPE.format(root=folder))
    return folder


def test_a_grid_is_trained_by_the_command_line_and_read_from_its_folders(root, monkeypatch, capsys):
    # `run` would make the model in a process of its own.
    code, out, _ = liquid(monkeypatch, capsys, "scaling", "models", root / "grid.yaml")
    assert (code, out.strip()) == (0, str(root / "study" / "models" / "tiny_s0"))
    code, out, error = liquid(monkeypatch, capsys, "scaling", "run", root / "grid.yaml")
    assert (code, error) == (0, "")
    assert "1 cells, 0 done" in out
    assert "tiny_t2i_x1_s0: done" in out
    code, out, _ = liquid(monkeypatch, capsys, "scaling", "run", root / "grid.yaml")
    assert (code, "1 cells, 1 done" in out, "s0: done" in out) == (0, True, False)
    (run,) = collect(root / "study").runs.itertuples()
    # One layer: attention 4 × 16², MLP 3 × 16 × 24, norms 3 × 16.
    assert run.parameters == 4 * 16**2 + 3 * 16 * 24 + 3 * 16
    assert (run.trained, run.tokens > 0, run.code_loss > 0) == ("code+caption", True, True)
    code, _, error = liquid(monkeypatch, capsys, "scaling", "fit", root / "study")
    assert (code, "too few runs for any law" in error) == (2, True)


def test_fit_and_plot_say_what_they_found(monkeypatch, capsys, tmp_path):
    for size, body in (("a", 300), ("b", 1000), ("c", 3000), ("d", 10000), ("e", 30000)):
        write_run(tmp_path / "study", size=size, body=body)
    code, out, _ = liquid(monkeypatch, capsys, "scaling", "fit", tmp_path / "study", "-o", tmp_path, "--draws", 50)
    assert code == 0
    assert "5 runs" in out
    assert "yes  Does the loss of image codes fall" in out
    assert json.loads((tmp_path / "scaling.json").read_text())["runs"] == 5
    code, out, _ = liquid(monkeypatch, capsys, "scaling", "plot", tmp_path, "-o", tmp_path / "figures")
    assert code == 0
    assert out.split()[-1] == str(tmp_path / "figures" / "scaling.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{tmp}/none.yaml"], "there is no recipe"),
        (["run", "{root}/grid.yaml", "--cell", "tiny_t2i_x1_s1"], "did you mean 'tiny_t2i_x1_s0'"),
        (["fit", "{tmp}"], "holds no run folders"),
        (["plot", "{tmp}"], "there is no table"),
    ],
)
def test_mistakes_end_in_a_sentence(arguments, message, root, monkeypatch, capsys, tmp_path):
    arguments = [argument.format(tmp=tmp_path, root=root) for argument in arguments]
    code, _, error = liquid(monkeypatch, capsys, "scaling", *arguments)
    assert (code, message in error) == (2, True)
    assert "Traceback" not in error
