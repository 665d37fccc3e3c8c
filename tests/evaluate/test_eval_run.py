"""Whole evaluations of a tiny random model: each task end to end, kills, shards, scoring again, the report."""

import json
import re

import numpy as np
import pytest
from evalkit import Brightness, MeanColour, write_jsonl
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.evaluate import drawing, mjhq, run, tokenizer
from liquid_mm.evaluate.plan import plan_work
from liquid_mm.evaluate.report import compare, markdown
from liquid_mm.evaluate.settings import EvalSettings
from liquid_mm.evaluate.stats import wilson

SETTINGS = EvalSettings(features="mean", top_k=None, temperature=1e3, judge="brightness", max_new_tokens=3)
# Four pictures of sixteen features are too few for a distance worth anything: that is said, and not the point here.
pytestmark = pytest.mark.filterwarnings("ignore:a Fréchet distance over:UserWarning")


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    """Real nets have tests of their own; here they would only be slow."""
    for module in (tokenizer, mjhq):
        monkeypatch.setattr(module, "load_features", lambda name, device: MeanColour())
    monkeypatch.setattr(drawing, "load_judge", lambda name, device: Brightness())


@pytest.fixture(scope="module")
def done(tiny_folder, data, tmp_path_factory):
    """One evaluation of every task that needs no further package."""
    out = tmp_path_factory.mktemp("eval") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for module in (tokenizer, mjhq):
            patch.setattr(module, "load_features", lambda name, device: MeanColour())
        patch.setattr(drawing, "load_judge", lambda name, device: Brightness())
        kinds = ["tokenizer", "text-to-image", "understanding"]
        results = run.evaluate(str(tiny_folder), kinds, out, SETTINGS, data_dir=data, device="cpu")
    return out, results


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_carry_all_that_made_them(done, tiny_folder):
    out, results = done
    assert results == json.loads((out / "results.json").read_text())
    assert results["checkpoint"] == str(tiny_folder)
    assert re.fullmatch("[0-9a-f]{16}", results["model_hash"])
    assert results["settings"]["temperature"] == 1e3
    assert {"python", "torch", "transformers", "liquid-mm"} <= set(results["versions"])
    for task in results["tasks"].values():
        assert re.fullmatch("[0-9a-f]{16}", task["data_hash"])
        assert all(value["n"] >= 1 for value in task["values"].values())


def test_every_task_gave_its_values(done):
    _, results = done
    values = {name: set(task["values"]) for name, task in results["tasks"].items()}
    assert values["tokenizer"] == {
        "psnr", "ssim", "rfid", "codes_used", "perplexity", "bits_per_pixel", "bits_per_pixel_entropy"
    }  # fmt: skip
    assert {"vqascore/attribute", "vqascore/basic", "vqascore/advanced", "vqascore/all"} <= values["genai-bench"]
    assert "vqascore/scene" not in values["genai-bench"]  # no prompt has it
    assert {"fid", "fid/art", "fid/food", "vqascore"} == values["mjhq-30k"]
    assert values["vqav2"] == values["gqa"] == values["textvqa"] == {"accuracy"}
    assert values["pope"] == {"accuracy", "precision", "recall", "f1", "f1_mean", "yes_ratio"}
    assert values["mme"] == {"perception", "color"}
    assert values["geneval"] == values["dpg-bench"] == set()


def test_skills_are_means_over_their_prompts(done):
    out, results = done
    scores = [row["vqascore"] for row in lines(out / "genai-bench" / "scores.jsonl")]
    values = results["tasks"]["genai-bench"]["values"]
    assert values["vqascore/attribute"]["value"] == pytest.approx(np.mean(scores[:3]))
    assert values["vqascore/basic"]["value"] == pytest.approx(np.mean(scores[:2]))
    assert values["vqascore/advanced"]["value"] == pytest.approx(np.mean(scores[2:]))
    assert values["vqascore/all"]["n"] == 4
    low, high = (values["vqascore/all"][key] for key in ("low", "high"))
    assert min(scores) <= low <= values["vqascore/all"]["value"] <= high <= max(scores)


def test_a_picture_can_be_drawn_again_from_what_is_written_down(done, tiny_folder):
    from liquid_mm.generate.model import load

    out, _ = done
    prediction = lines(out / "genai-bench" / "predictions.jsonl")[2]
    assert prediction["seeds"] == [2]
    (again,) = load(tiny_folder, device="cpu").generate_images(
        [prediction["inputs"]["prompt"]], temperature=1e3, top_k=None, seed=2
    )
    with Image.open(out / "genai-bench" / prediction["image"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(again.image))


def test_an_answer_is_what_the_model_says_to_that_prompt_alone(done, tiny_folder, data):
    from liquid_mm.generate.model import load

    out, _ = done
    prediction = lines(out / "pope" / "predictions.jsonl")[3]
    model = load(tiny_folder, device="cpu")
    said = model.generate_text(prediction["prompt"], [data / "questions" / "3.png"], 3, top_k=1)
    assert (prediction["prompt"], prediction["answer"]) == (
        "Is there a dog?\nAnswer the question using a single word or phrase.",
        said,
    )


def test_the_fid_of_categories_is_of_their_own_pictures(done, data):
    out, results = done
    art = [p for p in lines(out / "mjhq-30k" / "predictions.jsonl") if p["inputs"]["category"] == "art"]
    pairs = {
        "art": [(data / "mjhq-30k/mjhq30k_imgs/art" / f"{p['id']}.jpg", out / "mjhq-30k" / p["image"]) for p in art]
    }
    alone = mjhq.distances(pairs, MeanColour())
    values = results["tasks"]["mjhq-30k"]["values"]
    assert alone["fid"].value == pytest.approx(alone["fid/art"].value) == pytest.approx(values["fid/art"]["value"])
    assert values["fid"]["low"] is None
    assert "mean colour" in results["tasks"]["mjhq-30k"]["notes"][0]


def test_geneval_and_dpg_are_drawn_in_their_scorers_layout(done):
    out, results = done
    first = out / "geneval" / "00000"
    assert sorted(path.name for path in (first / "samples").iterdir()) == [f"{i:04d}.png" for i in range(4)]
    assert json.loads((first / "metadata.jsonl").read_text())["tag"] == "counting"
    samples = [np.asarray(Image.open(path)) for path in sorted((first / "samples").iterdir())]
    assert any((samples[0] != other).any() for other in samples[1:])
    with Image.open(out / "dpg-bench" / "images" / "stanford12.png") as grid:
        assert grid.size == (64, 64)
    assert "evaluate_images.py" in results["tasks"]["geneval"]["notes"][0]
    assert "--resolution 32" in results["tasks"]["dpg-bench"]["notes"][0]


def test_the_page_shows_pictures_and_answers_and_escapes_them(done):
    out, _ = done
    page = (out / "index.html").read_text()
    assert 'src="genai-bench/images/00000.png"' in page
    assert "a red apple 0" in page
    assert "<script" not in page


def test_a_killed_run_goes_on_without_doing_anything_twice(tiny_folder, data, tmp_path, monkeypatch):
    calls = []
    real = drawing.draw

    def counted(model, prompts, seeds, settings):
        calls.append(seeds)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, prompts, seeds, settings)

    monkeypatch.setattr(drawing, "draw", counted)

    def evaluate():
        return run.evaluate(
            str(tiny_folder), ["genai-bench"], tmp_path / "o", SETTINGS, data_dir=data, batch_size=2, device="cpu"
        )

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    path = tmp_path / "o" / "genai-bench" / "predictions.jsonl"
    assert len(lines(path)) == 2
    with path.open("a") as file:
        file.write('{"id": "00002", "inp')  # half a line, as a kill leaves it
    results = evaluate()
    assert calls == [[0, 1], [2, 3], [2, 3]]
    assert [line["id"] for line in lines(path)] == [f"0000{i}" for i in range(4)]
    assert results["tasks"]["genai-bench"]["n"] == 4
    evaluate()
    assert len(calls) == 3


def test_shards_share_the_work_and_the_last_one_scores(tiny_folder, data, tmp_path, done):
    def shard(k):
        return run.evaluate(
            str(tiny_folder), ["genai-bench"], tmp_path / "o", SETTINGS, data_dir=data, shard=(k, 2), device="cpu"
        )

    assert "genai-bench" not in shard(1)["tasks"]
    assert shard(2)["tasks"]["genai-bench"]["values"] == done[1]["tasks"]["genai-bench"]["values"]
    with pytest.raises(UserError, match="shard 3/2"):
        shard(3)


def test_other_settings_or_another_model_do_not_mix_with_a_run(done, data, tiny_folder, tmp_path):
    out, _ = done
    other = SETTINGS.model_copy(update={"seed": 1, "guidance_scale": 2.0})
    with pytest.raises(UserError, match="another seed, guidance_scale"):
        run.evaluate(str(tiny_folder), ["gqa"], out, other, data_dir=data)
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "x").write_text("another model")
    with pytest.raises(UserError, match="of another model"):
        run.evaluate(str(fake), ["gqa"], out, SETTINGS, data_dir=data)
    with pytest.raises(UserError, match="is no evaluation"):
        run.evaluate(str(tiny_folder), ["gqa"], fake, SETTINGS, data_dir=data)


def test_a_run_is_planned_before_it_is_begun(done, tiny_folder, data, tmp_path):
    out, _ = done
    tasks = ["mjhq-30k", "pope"]
    settings = {"settings": SETTINGS, "data_dir": data, "batch_size": 2, "device": "cpu"}
    for shard, left in ((None, [4, 4]), ((1, 3), [2, 2])):
        work = run.find_work(tasks, tmp_path / "run", shard=shard, **settings)
        plans = plan_work(str(tiny_folder), work, device="cpu")
        assert [(plan.task, plan.examples, plan.done) for plan in plans] == [("mjhq-30k", 4, 0), ("pope", 4, 0)]
        assert [plan.left for plan in plans] == left
        assert all(plan.seconds == plan.left * plan.each > 0 for plan in plans)
    assert not (tmp_path / "run").exists()
    # What is done is not counted, and no model is needed to say so.
    plans = plan_work("none", run.find_work(tasks, out, **settings))
    assert [(plan.done, plan.left, plan.seconds) for plan in plans] == [(4, 0, 0)] * 2


def test_scoring_again_needs_no_model_and_takes_another_judge(done, monkeypatch):
    out, results = done
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(Brightness, "__call__", lambda self, images, texts: [0.25] * len(images))
    # GenEval's official program has scored meanwhile.
    verdicts = [
        {"filename": f"x/{n:05d}/samples/{i:04d}.png", "tag": tag, "correct": i < right}
        for n, (tag, right) in enumerate([("counting", 1), ("colors", 4)])
        for i in range(4)
    ]
    write_jsonl(out / "geneval" / "results.jsonl", verdicts)
    again = run.rescore(out, {"judge": "another"}, device="cpu")
    assert again["settings"]["judge"] == "another"
    assert again["tasks"]["genai-bench"]["values"]["vqascore/all"]["value"] == 0.25
    assert again["tasks"]["pope"]["values"] == results["tasks"]["pope"]["values"]
    geneval = again["tasks"]["geneval"]["values"]
    assert (geneval["counting"]["value"], geneval["colors"]["value"], geneval["overall"]["value"]) == (0.25, 1.0, 0.625)
    assert (geneval["counting"]["low"], geneval["counting"]["high"]) == pytest.approx(wilson(1, 4))


def test_missing_data_come_with_the_command_and_the_licence(tiny_folder, tmp_path):
    with pytest.raises(UserError) as error:
        run.evaluate(str(tiny_folder), ["pope"], tmp_path / "o", SETTINGS, data_dir=tmp_path)
    message = str(error.value)
    assert (
        f"hf download lmms-lab/POPE --repo-type dataset --include 'data/test-*.parquet' --local-dir {tmp_path}/pope"
        in message
    )
    assert "Licence: MIT" in message
    with pytest.raises(UserError, match="needs --data-dir"):
        run.evaluate(str(tiny_folder), ["mjhq-30k"], tmp_path / "o", SETTINGS)
    with pytest.raises(UserError, match="cannot be downloaded"):
        run.evaluate(str(tiny_folder), ["pope"], tmp_path / "o", SETTINGS)
    with pytest.raises(UserError, match="did you mean 'pope'"):
        run.evaluate(str(tiny_folder), ["popo"], tmp_path / "o", SETTINGS)
    assert not (tmp_path / "o").exists()


def test_the_report_sets_runs_beside_each_other_and_the_paper(done, tiny_folder, data, tmp_path):
    first, _ = done
    second = tmp_path / "second"
    bright = SETTINGS.model_copy(update={"seed": 7})
    run.evaluate(str(tiny_folder), ["genai-bench", "pope"], second, bright, data_dir=data, device="cpu")
    found = {(line.task, line.value): line for line in compare([first, second])}
    line = found["genai-bench", "vqascore/all"]
    (a, *_), (b, *_) = line.runs
    (difference, low, high) = line.differences[0]
    assert difference == pytest.approx(b - a)
    assert low <= difference <= high
    assert found["genai-bench", "vqascore/negation"].paper == 0.46
    assert found["gqa", "accuracy"].runs[1] is None
    text = markdown(compare([first, second]), [first, second])
    assert "| pope | f1_mean | 81.1 |" in text
    with pytest.raises(UserError, match=r"no results\.json"):
        compare([tmp_path])
