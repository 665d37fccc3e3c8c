"""Scores of single tasks on answers and pictures known by hand, and the layouts they read."""

import numpy as np
import pytest
from evalkit import noise
from PIL import Image

from liquid_mm.evaluate import genai_bench, tokenizer
from liquid_mm.evaluate.protocol import mean_of
from liquid_mm.evaluate.settings import EvalSettings

SETTINGS = EvalSettings()


def test_code_statistics_on_codes_known_by_hand():
    codes = [[0, 0], [1, 1]]
    stats = tokenizer.code_statistics([{"codes": codes, "num_codes": 8, "downsampling": 4}] * 2)
    assert stats["codes_used"].value == 0.25
    assert stats["perplexity"].value == pytest.approx(2)
    assert stats["bits_per_pixel"].value == pytest.approx(3 / 16)
    assert stats["bits_per_pixel_entropy"].value == pytest.approx(1 / 16)


def test_psnr_and_ssim_where_they_are_known():
    image = noise(0)
    shifted = Image.fromarray(np.asarray(image).astype(np.uint8) // 2 * 2)
    assert tokenizer.psnr(image, image) == 100
    error = (np.asarray(image) % 2).mean()
    assert tokenizer.psnr(image, shifted) == pytest.approx(10 * np.log10(255**2 / error))
    assert tokenizer.ssim(image, image) == pytest.approx(1)
    # Two flat pictures: only the luminance term is left.
    black, grey = Image.new("RGB", (16, 16), (0, 0, 0)), Image.new("RGB", (16, 16), (128, 128, 128))
    c1 = (0.01 * 255) ** 2
    assert tokenizer.ssim(black, grey) == pytest.approx(c1 / (128**2 + c1), rel=1e-2)


def test_pope_on_a_confusion_table_known_by_hand():
    from liquid_mm.evaluate.registry import TASKS

    said = np.array([1, 1, 1, 0, 0, 0, 1, 0], bool)
    true = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
    table = {"said": said, "true": true, "correct": said == true, "category": np.array(["a"] * 4 + ["b"] * 4)}
    values = {name: value.value for name, value in TASKS["pope"].summarise(table).items()}
    assert values["accuracy"] == 50
    assert values["precision"] == 50  # 2 of 4
    assert values["recall"] == 50
    assert values["f1"] == 50
    assert values["yes_ratio"] == 50
    assert values["f1_mean"] == pytest.approx((200 / 3 + 0) / 2)


def test_mme_rewards_both_questions_of_a_picture():
    from liquid_mm.evaluate.protocol import Context, to_table
    from liquid_mm.evaluate.registry import TASKS

    def ask(picture, answer, truth):
        inputs = {"category": "count", "question_id": picture, "answer": truth}
        return {"id": f"{picture}{truth}", "inputs": inputs, "answer": answer}

    said = [
        ask("1", "Yes", "Yes"),
        ask("1", "No.", "No"),
        ask("2", "Yes", "Yes"),
        ask("2", "yes", "No"),
        ask("3", "x", "No"),
    ]
    scored = TASKS["mme"].score(said, Context(SETTINGS, None, None))
    values = TASKS["mme"].summarise(to_table(scored.rows))
    # Three of four right, one of two pictures wholly right; the third picture lacks a question.
    assert values["count"].value == values["perception"].value == 75 + 50
    assert "1 pictures have not both" in scored.notes[0]


def test_genai_bench_without_a_judge_is_drawn_and_says_how_to_score(data, tmp_path):
    from liquid_mm.evaluate.protocol import Context

    task = genai_bench.GenAIBench()
    scored = task.score([], Context(EvalSettings(), tmp_path / "o" / "genai-bench", data))
    assert "--rescore" in scored.notes[0]


def test_a_share_is_scaled_with_its_interval():
    value = mean_of({"x": np.array([1.0, 0.0])}, "x", scale=100.0)
    assert (value.value, value.binary) == (50, True)


@pytest.mark.parametrize("joined", [True, False])
def test_the_hubs_parquet_files_are_read(joined, tmp_path, monkeypatch):
    import io

    import datasets

    from liquid_mm.evaluate.pictures import load_picture
    from liquid_mm.evaluate.protocol import Context
    from liquid_mm.evaluate.registry import TASKS

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def png(seed):
        buffer = io.BytesIO()
        noise(seed).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": "x.png"}

    def write(name, rows):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name)

    ask = {"question": "What is it?", "answer": "boat"}
    if joined:
        write("gqa/testdev_balanced_images/a.parquet", [{"id": f"i{s}", "image": png(s)} for s in (1, 2)])
        write("gqa/testdev_balanced_instructions/a.parquet", [{"id": "q", "imageId": "i2", **ask}])
    else:
        write("gqa/a.parquet", [{"id": "q", "image": png(2), **ask}])
    (example,) = TASKS["gqa"].examples(Context(SETTINGS, tmp_path / "o", tmp_path / "gqa"))
    assert example.inputs == {**ask, "id": "q"}
    np.testing.assert_array_equal(np.asarray(load_picture(example.image)), np.asarray(noise(2)))
