"""Long work on a local Ray: two actors, one of which is killed, go on with a folder as one process would."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys

import pytest

from liquid_mm import cli
from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.generate import cluster
from liquid_mm.generate.folder import Settings, Wanted
from liquid_mm.generate.jobs import Job, draw_job
from liquid_mm.generate.model import load
from liquid_mm.record import stored_guidance
from tiny_checkpoint import tiny_checkpoint

# Ray warns of its own settings as it makes them.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("one_thread")]
# So hot that pictures differ; guided, so that a window holds eight.
SETTINGS = {"temperature": 1e3, "top_k": None, "top_p": 1.0, "number": 16}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "tiny"
    save_checkpoint(dataclasses.replace(tiny_checkpoint("smollm"), guidance_scale=3.0), folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path):
    lines = [{"prompt": "a duck"}, {"prompt": "a ball", "seed": 7, "size": [48, 16]}, {"prompt": "a tree\u2028 ä"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def here(monkeypatch):
    """What Ray would run, run by this process."""

    def spread(items, worker, arguments, workers):
        one = worker(*arguments)
        return map(one, items)

    monkeypatch.setattr(cluster, "spread", spread)


def lines(out):
    """The manifest's lines, in the order of the prompts."""
    return sorted((out / "manifest.jsonl").read_text(encoding="utf-8").split("\n")[:-1])


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.jsonl"}


def killed_once(mark):
    """`cluster.Worker`, whose first instance that is in the middle of a window kills its process.

    Made inside a function, so that it reaches the actors by value: they cannot import the tests.
    """

    class Killed(cluster.Worker):
        def __call__(self, window):
            engine, steps = self.model.engine, []
            real = type(engine).step

            def step():
                steps.append(None)
                if len(steps) == 8:
                    try:
                        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                    except FileExistsError:
                        pass
                    else:
                        os.kill(os.getpid(), signal.SIGKILL)
                return real(engine)

            engine.step = step
            return super().__call__(window)

    return Killed


@pytest.mark.usefixtures("local_ray")
def test_a_killed_actor_costs_nothing(checkpoint, prompts, tmp_path, monkeypatch):
    model = load(checkpoint, dtype="float32")
    draw_job(model, prompts, tmp_path / "whole", **SETTINGS)
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == 16 * 8 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(model, prompts, tmp_path / "out", Settings(**SETTINGS, guidance_scale=3.0)).run(stop)
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.suffix == ".png"}
    assert len(begun) == 8
    monkeypatch.setattr(cluster, "Worker", killed_once(str(tmp_path / "killed")))
    said = cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", workers=2, dtype="float32", **SETTINGS)
    assert (tmp_path / "killed").exists()
    assert said == f"{tmp_path / 'out'}: 48 pictures, 40 of them new"
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in begun} == begun


def test_guidance_is_the_checkpoints_own(checkpoint, prompts, tmp_path, here):
    assert (stored_guidance(checkpoint), stored_guidance("demo")) == (3.0, load("demo").checkpoint.guidance_scale)
    cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", number=1)
    assert {json.loads(line)["settings"]["guidance_scale"] for line in lines(tmp_path / "out")} == {3.0}


def test_ctrl_c_keeps_what_came_back(checkpoint, prompts, tmp_path, here, monkeypatch):
    real, left = cluster.spread, []

    def stopped(items, *rest, **options):
        left.append(len(items))
        for number, drawn in enumerate(real(items, *rest, **options)):
            if number == 2 and len(left) == 1:
                raise KeyboardInterrupt
            yield drawn

    monkeypatch.setattr(cluster, "spread", stopped)
    with pytest.raises(KeyboardInterrupt):
        cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", dtype="float32", **SETTINGS)
    assert len(lines(tmp_path / "out")) == 16
    draw = lambda: cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", dtype="float32", **SETTINGS)  # noqa: E731
    assert draw().endswith("48 pictures, 32 of them new")
    assert draw().endswith("48 pictures, 0 of them new")
    draw_job(load(checkpoint, dtype="float32"), prompts, tmp_path / "whole", **SETTINGS)
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_model_needs_another_folder(checkpoint, prompts, tmp_path, here):
    cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", dtype="float32", number=1)
    before = contents(tmp_path / "out")
    for number, named in ((1, "another model"), (2, "number 1, not 2")):
        with pytest.raises(UserError, match=named):
            cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out", dtype="bfloat16", number=number)
    assert contents(tmp_path / "out") == before


def test_machines_that_load_different_models_are_found(checkpoint, prompts, tmp_path, monkeypatch):
    found = [cluster.Drawn("one", [(Wanted(1, "a duck", 0, None), b"a picture")]), cluster.Drawn("other", [])]
    monkeypatch.setattr(cluster, "spread", lambda *arguments, **options: iter(found))
    with pytest.raises(UserError, match="machines load different models"):
        cluster.draw_on_ray(checkpoint, prompts, tmp_path / "out")


def test_a_bad_line_is_named_before_anything_is_drawn(checkpoint, tmp_path, here):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "fine"}\n{"prompt": "a", "size": [30, 32]}')
    with pytest.raises(UserError, match="multiples of 8"):
        cluster.draw_on_ray(checkpoint, tmp_path / "prompts.jsonl", tmp_path / "out")
    with pytest.raises(UserError, match="no checkpoint folder"):
        cluster.draw_on_ray(str(tmp_path / "none"), tmp_path / "prompts.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_window_fills_an_actor_with_pictures_of_one_size():
    wanted = [Wanted(n, "", n, (32, 32) if n % 2 else None) for n in range(40)]
    for scale, length in ((1.0, 16), (3.0, 8)):
        cut = cluster.windows(wanted, Settings(guidance_scale=scale))
        assert sorted(picture.line for window in cut for picture in window) == list(range(40))
        assert {len(window) for window in cut[:-1]} == {length}
        assert sum(len({picture.size for picture in window}) > 1 for window in cut) <= 1
    assert cluster.windows([], Settings()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a duck", "--cluster"], "give one with --prompts"),
        (["--prompts", "p.jsonl", "--workers", "2"], "give both"),
        (["--prompts", "p.jsonl", "--cluster", "--device", "cpu"], "leave out --device"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, named, monkeypatch, capsys):
    assert run(monkeypatch, "generate", "demo", *arguments) == 2
    assert named in capsys.readouterr().err


def test_on_the_command_line(checkpoint, prompts, tmp_path, here, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["generate", checkpoint, "--prompts", prompts, "-o", out, "--cluster", "--workers", 2, "-n", 2]
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == f"{out}: 6 pictures, 6 of them new\n"

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "draw_on_ray", interrupt)
    assert run(monkeypatch, *arguments) == 130
    assert "goes on from there" in capsys.readouterr().err


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["liquid", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0
