import json
import sys

import pytest

from liquid_mm import cli
from liquid_mm.evaluate.registry import TASKS


@pytest.fixture
def liquid(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["liquid", "eval", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_tasks_are_listed_with_licences(liquid):
    code, out, _ = liquid("--list-tasks")
    assert code == 0
    assert "genai-bench" in out
    assert "hellaswag" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one checkpoint"),
        (["demo", "--tasks", "pope"], "-o OUT"),
        (["demo", "--tasks", "popo", "-o", "{tmp}/o"], "did you mean 'pope'"),
        (["demo", "--tasks", "pope", "-o", "{tmp}/o", "--data-dir", "{tmp}"], "hf download lmms-lab/POPE"),
        (["demo", "--tasks", "pope", "-o", "{tmp}/o", "--limit", "0"], "limit"),
        (["demo", "--tasks", "pope", "--plan", "--cluster"], "leave out --cluster"),
        (["report"], "name the folders"),
        (["report", "{tmp}"], "no results.json"),
        (["--rescore", "{tmp}"], "run.json"),
        (["demo", "--shard", "2"], "write K/N"),
    ],
)
def test_mistakes_end_in_a_sentence(arguments, message, liquid, tmp_path):
    code, _, error = liquid(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert (code, message in error) == (2, True), error
    assert "Traceback" not in error
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:a Fréchet distance over:UserWarning")  # of two pictures, and of reconstructions
def test_the_demo_model_is_measured_and_reported(liquid, data, tmp_path):
    out = tmp_path / "o"
    every = "tokenizer,text-to-image,understanding"
    arguments = ["demo", "--tasks", every, "--data-dir", data, "-o", out, "--limit", 2]
    code, shown, error = liquid(*arguments, "--guidance", 1, "--device", "cpu", "--features", "efficientnet-lite0")
    assert code == 0, error
    assert "| tokenizer | psnr |" in shown
    assert "drawn, not scored yet" in shown
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["pope"]["n"] == 2
    assert set(results["tasks"]) == {task.name for task in TASKS.values() if task.kind != "text"}
    assert (out / "index.html").is_file()
    code, again, _ = liquid("--rescore", out)
    assert (code, again) == (0, shown)
    code, table, _ = liquid("report", out, out, "-o", tmp_path / "report.md")
    assert (code, (tmp_path / "report.md").read_text() in table) == (0, True)
