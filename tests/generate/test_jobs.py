"""Long work: stopped anywhere and gone on with, nothing is lost and nothing is drawn twice."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from liquid_mm import cli
from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.files import sole_writer
from liquid_mm.generate.jobs import Job, Settings, Wanted, draw_job, read_prompts
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import Running
from tiny_checkpoint import tiny_checkpoint

SETTINGS = {"guidance_scale": 3.0, "temperature": 1e3, "top_k": None, "top_p": 1.0, "number": 2}


@pytest.fixture(scope="module")
def model():
    return LiquidModel(tiny_checkpoint("smollm"), max_batch=4)


@pytest.fixture
def prompts(tmp_path):
    lines = [{"prompt": "a duck"}, {"prompt": "a ball", "seed": 7}, {"prompt": "a tree", "size": [48, 16]}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def pixels(out):
    return {path.name: np.asarray(Image.open(path)).tolist() for path in out.glob("*.png")}


def test_lines_say_what_is_wanted(prompts):
    wanted = read_prompts(prompts, Settings(number=2, seed=3))
    assert [(w.line, w.prompt, w.seed, w.size) for w in wanted] == [
        (1, "a duck", 3, None),
        (1, "a duck", 4, None),
        (2, "a ball", 7, None),
        (2, "a ball", 8, None),
        (3, "a tree", 3, (48, 16)),
        (3, "a tree", 4, (48, 16)),
    ]
    assert Wanted(12, "A red apple!", 3, None).name == "000012_a-red-apple_seed3.png"
    assert read_prompts(prompts, Settings(size=(16, 16)))[0].size == (16, 16)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a duck", "line 2"),
        ('{"prompt": 5}', "line 2: prompt"),
        ('{"prompt": "a", "sed": 1}', "line 2: sed"),
        ('{"prompt": "a", "size": [30, 32]}', "multiples of 8"),
        ('{"prompt": "a", "size": [512, 512]}', "smaller image"),
        ('{"prompt": "a", "seed": -1}', "seed is -1"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_drawn(model, tmp_path, line, named):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(UserError, match=named):
        draw_job(model, tmp_path / "prompts.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no file"):
        draw_job(model, tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(UserError, match="images_per_prompt is 0"):
        draw_job(model, tmp_path / "prompts.jsonl", tmp_path / "out", number=0)


def test_pictures_and_their_lines_are_those_of_the_model(model, prompts, tmp_path):
    said = draw_job(model, prompts, tmp_path / "out", **SETTINGS)
    assert said == f"{tmp_path / 'out'}: 6 pictures, 6 of them new"
    lines = manifest(tmp_path / "out")
    assert sorted(line["image"] for line in lines) == sorted(pixels(tmp_path / "out"))
    ball = next(line for line in lines if line["seed"] == 8)
    assert (ball["line"], ball["prompt"], ball["size"], ball["model"]) == (2, "a ball", None, model.fingerprint)
    assert ball["settings"]["guidance_scale"] == 3.0
    (alone,) = model.generate_images(["a ball"], seed=8, **{k: v for k, v in SETTINGS.items() if k != "number"})
    with Image.open(tmp_path / "out" / ball["image"]) as written:
        np.testing.assert_array_equal(written, alone.image)
        assert written.text == {"prompt": "a ball", "seed": "8"}


@pytest.mark.parametrize("after", [1, 40, 70])
def test_a_stopped_job_keeps_what_is_complete_and_goes_on(model, prompts, tmp_path, after):
    draw_job(model, prompts, tmp_path / "whole", **SETTINGS)
    job = Job(model, prompts, tmp_path / "out", Settings(**SETTINGS))
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    kept = manifest(tmp_path / "out") if (tmp_path / "out" / "manifest.jsonl").exists() else []
    assert len(kept) == {1: 0, 40: 2, 70: 4}[after]
    with (tmp_path / "out" / "manifest.jsonl").open("a") as half:
        half.write('{"image": "0000')
    said = draw_job(model, prompts, tmp_path / "out", **SETTINGS)
    assert said.endswith(f"6 pictures, {6 - len(kept)} of them new")
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")
    assert len(manifest(tmp_path / "out")) == 6
    assert draw_job(model, prompts, tmp_path / "out", **SETTINGS).endswith("0 of them new")


def test_a_folder_has_one_writer_and_nothing_is_drawn_twice(model, prompts, tmp_path):
    jobs = [Job(model, prompts, tmp_path / "out", Settings(**SETTINGS)) for _ in range(2)]
    with sole_writer(tmp_path / "out"), pytest.raises(UserError, match="another process is writing"):
        jobs[0].run()
    for job in jobs:  # both were begun when nothing was there
        job.run()
    assert len(manifest(tmp_path / "out")) == 6


def test_what_is_complete_is_kept_when_another_request_fails(model, prompts, tmp_path, monkeypatch):
    job = Job(model, prompts, tmp_path / "out", Settings(**SETTINGS))
    accept, first = Running.accept, []

    def fail(state, token):
        event = accept(state, token)
        if event.done and len(first) < 2:
            first.append(state)
            if len(first) == 1:
                raise ArithmeticError("of this one alone")
        return event

    monkeypatch.setattr(Running, "accept", fail)
    with pytest.raises(ArithmeticError, match="of this one alone"):
        job.run()
    assert len(first) == 2, "two are finished by one step"
    assert len(manifest(tmp_path / "out")) >= 1


def test_a_prompt_may_hold_what_unicode_counts_as_a_line_end(model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a duck\u2028on a pond"}, ensure_ascii=False) + "\n", encoding="utf-8")
    for new in (2, 0):
        assert draw_job(model, prompts, tmp_path / "out", **SETTINGS).endswith(f"2 pictures, {new} of them new")


def test_another_setting_or_model_needs_another_folder(model, prompts, tmp_path):
    Job(model, prompts, tmp_path / "out", Settings())
    with pytest.raises(UserError, match="top_k 4096, not 5"):
        Job(model, prompts, tmp_path / "out", Settings(top_k=5))
    other = LiquidModel(tiny_checkpoint("smollm", seed=1))
    assert other.fingerprint != model.fingerprint == LiquidModel(tiny_checkpoint("smollm")).fingerprint
    with pytest.raises(UserError, match="another model"):
        Job(other, prompts, tmp_path / "out", Settings())


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["liquid", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


def test_on_the_command_line(model, prompts, tmp_path, monkeypatch, capsys):
    save_checkpoint(model.checkpoint, tmp_path / "model")
    hot = ["--temperature", 1000, "--seed", 3]
    arguments = ["generate", tmp_path / "model", "--prompts", prompts, "-o", tmp_path / "out", "-n", 2, *hot]
    assert run(monkeypatch, *arguments) == 0
    assert "6 of them new" in capsys.readouterr().out
    for wrong in ([], ["a duck", "--prompts", prompts]):
        assert run(monkeypatch, "generate", tmp_path / "model", *wrong) == 2
        assert "either prompts, or a file" in capsys.readouterr().err
    picture = next((tmp_path / "out").glob("000001*.png"))
    edit = ["edit", tmp_path / "model", picture, "--prompt", "a duck", "-o", tmp_path / "edited", *hot]
    Image.new("L", (32, 32)).save(tmp_path / "mask.png")
    for keep in ("0,0,32,8", tmp_path / "mask.png"):
        assert run(monkeypatch, *edit, "--keep", keep) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "edited" / "a-duck_seed3.png")
    assert run(monkeypatch, *edit, "--keep", "0,0,64,8") == 2
    assert "does not lie in the picture" in capsys.readouterr().err

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("liquid_mm.generate.jobs.draw_job", interrupt)
    assert run(monkeypatch, *arguments) == 130
    assert "goes on from there" in capsys.readouterr().err
