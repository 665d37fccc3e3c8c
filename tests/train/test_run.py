from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from liquid_mm.checkpoint import extend, load_checkpoint
from liquid_mm.cli import app
from liquid_mm.config import load_config
from liquid_mm.data.config import MixtureConfig
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.mixture import build_mixture
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError
from liquid_mm.files import read_json, sole_writer
from liquid_mm.train import bad_step
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.guard import Guard, Trouble
from liquid_mm.train.metrics import read_metrics
from liquid_mm.train.records import describe, worst_first
from liquid_mm.train.run import train
from liquid_mm.train.signals import Interrupted
from liquid_mm.vocab.prompts import Renderer
from tiny import tiny_base
from tiny_checkpoint import tiny_vqgan


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A base model, it extended, and a tokenised set of coloured squares."""
    root = tmp_path_factory.mktemp("assets")
    llm, tokenizer = tiny_base("smollm")
    llm.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    images = tiny_vqgan()
    images.save(root / "vqgan")
    extend(str(root / "base"), root / "vqgan", root / "model")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (12, 3))
    records = [
        {"id": str(i), "image": Image.new("RGB", (32, 32), tuple(map(int, c))), "text": f"a square, number {i}"}
        for i, c in enumerate(colours)
    ]
    tokenize(records, images, root / "data")
    tokenize(
        [{"id": str(i), "text": f"once there was a number {i} and it was red"} for i in range(9)], None, root / "text"
    )
    turns = [
        {
            "id": str(i),
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": record["image"]}, part("what is this?")]},
                {"role": "assistant", "content": record["text"]},
                {"role": "user", "content": "draw it"},
                {"role": "assistant", "content": [part("here: "), {"type": "image", "image": record["image"]}]},
            ],
        }
        for i, record in enumerate(records)
    ]
    tokenize(turns, images, root / "chat")
    return root


def part(text):
    return {"type": "text", "text": text}


def write_recipe(assets, tmp_path, **lines):
    settings = {
        "model": assets / "model",
        "output": tmp_path / "run",
        "data": f"{{seq_len: 128, batch_size: 2, sources: [{{path: {assets / 'data'}}}]}}",
        "steps": 4,
        "lr": 1e-2,
        "log_every": 1,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (settings | lines).items()))
    return path


def logits(path):
    loaded = load_checkpoint(path)
    return loaded.llm(torch.arange(20)[None]).logits.detach()


@pytest.mark.parametrize("method", ["full", "lora", "rows"])
def test_a_finished_run_is_a_checkpoint(assets, tmp_path, method):
    path = write_recipe(assets, tmp_path, method=method, precision="fp32", steps=16, log_every=8, lr=5e-3)
    base = [] if method == "full" else [f"adapter_base={assets / 'base'}"]
    final = train(load_config(TrainConfig, path, base), progress=False)
    assert final == tmp_path / "run" / "final"
    assert (logits(final) - logits(assets / "model")).abs().max() > 1e-2
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    if method != "full":
        torch.testing.assert_close(logits(tmp_path / "run" / "adapter"), logits(final), rtol=1e-4, atol=1e-4)


def test_a_second_stage_goes_on_from_the_first_and_is_still_one_adapter(assets, tmp_path):
    first = write_recipe(assets, tmp_path, method="lora", precision="fp32", lora="{rank: 4}")
    train(load_config(TrainConfig, first), progress=False)
    lines = {"output": tmp_path / "second", "start_from": tmp_path / "run", "steps": 1, "lr": 1e-12}
    path = write_recipe(
        assets, tmp_path, method="lora", precision="fp32", lora="{rank: 4}", adapter_base=assets / "base", **lines
    )
    final = train(load_config(TrainConfig, path), progress=False)
    # A step that changes nothing: the end of the first stage, and far from where that began.
    torch.testing.assert_close(logits(final), logits(tmp_path / "run" / "final"), rtol=1e-4, atol=1e-4)
    assert (logits(final) - logits(assets / "model")).abs().max() > 1e-2
    torch.testing.assert_close(logits(tmp_path / "second" / "adapter"), logits(final), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="differs in lora"):
        train(load_config(TrainConfig, path, ["lora.rank=8", f"output={tmp_path / 'third'}"]), progress=False)
    with pytest.raises(UserError, match="holds neither checkpoints"):
        train(load_config(TrainConfig, path, [f"start_from={tmp_path}", f"output={tmp_path / 'third'}"]))
    assert not (tmp_path / "third").exists()
    # From the first stage's merged model instead, an adapter would lack the first stage.
    again = [f"model={tmp_path / 'run' / 'final'}", "start_from=null", f"output={tmp_path / 'third'}"]
    with pytest.raises(UserError, match="they differ in"):
        train(load_config(TrainConfig, path, again), progress=False)


def test_an_adapter_alone_can_be_gone_on_with(assets, tmp_path):
    shape = {"method": "lora", "precision": "fp32", "lora": "{rank: 4}", "adapter_base": assets / "base"}
    train(load_config(TrainConfig, write_recipe(assets, tmp_path, **shape)), progress=False)
    adapter = tmp_path / "run" / "adapter"
    lines = {"output": tmp_path / "second", "start_from": adapter, "steps": 1, "lr": 1e-12}
    path = write_recipe(assets, tmp_path, **shape, **lines)
    taught = ["taught.styles={ink: ', ink'}", "adapter_dtype=bfloat16"]
    final = train(load_config(TrainConfig, path, taught), progress=False)
    assert load_checkpoint(final, device="cpu").taught.styles == {"ink": ", ink"}
    weights = load_file(tmp_path / "second" / "adapter" / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    # A step that changes nothing: the adapter's own weights, and far from where that began.
    torch.testing.assert_close(logits(final), logits(tmp_path / "run" / "final"), rtol=1e-4, atol=1e-4)
    assert (logits(final) - logits(assets / "model")).abs().max() > 1e-2
    third = [f"output={tmp_path / 'third'}"]
    # Resumed, it goes on from its own checkpoint and not from the adapter.
    change = [f"output={tmp_path / 'whole'}", "steps=3", "lr=0.01", "save_every=2"]
    whole = logits(train(load_config(TrainConfig, path, change), progress=False))
    for name in ("final", "adapter", "checkpoints/step-00000003"):
        shutil.rmtree(tmp_path / "whole" / name)
    shutil.copytree(adapter, tmp_path / "moved")
    shutil.rmtree(adapter)
    resumed = train(load_config(TrainConfig, path, change), resume=True, progress=False)
    torch.testing.assert_close(logits(resumed), whole, rtol=0, atol=0)
    shutil.move(tmp_path / "moved", adapter)
    with pytest.raises(UserError, match="rank 4 and alpha"):
        train(load_config(TrainConfig, path, ["lora.rank=8", *third]), progress=False)
    with pytest.raises(UserError, match="which only method=lora goes on with"):
        train(load_config(TrainConfig, path, ["method=rows", *third]), progress=False)
    with pytest.raises(UserError, match="they differ in"):  # its LoRA is in there already
        train(load_config(TrainConfig, path, [f"model={final}", "adapter_base=null", *third]), progress=False)
    record = json.loads((adapter / "liquid.json").read_text())
    (adapter / "liquid.json").write_text(json.dumps(record | {"image_tokenizer_fingerprint": "another"}))
    with pytest.raises(UserError, match="trained with another image tokenizer"):
        train(load_config(TrainConfig, path, third), progress=False)
    (adapter / "liquid.json").write_text(json.dumps(record | {"vocabulary": {}}))
    with pytest.raises(UserError, match="other new rows"):
        train(load_config(TrainConfig, path, third), progress=False)
    (adapter / "liquid.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"LoRA on other layers than lora.targets"):
        train(load_config(TrainConfig, path, ["lora.targets=[q_proj]", *third]), progress=False)
    with pytest.raises(UserError, match="holds whole weights"):
        train(load_config(TrainConfig, path, [f"start_from={assets / 'model'}", *third]), progress=False)
    (adapter / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"adapter cannot be read"):
        train(load_config(TrainConfig, path, third), progress=False)
    assert not (tmp_path / "third" / "final").exists()


def test_bf16_lora_is_close_in_both_forms(assets, tmp_path):
    path = write_recipe(assets, tmp_path, method="lora", adapter_base=assets / "base")
    final = train(load_config(TrainConfig, path), progress=False)
    torch.testing.assert_close(logits(tmp_path / "run" / "adapter"), logits(final), rtol=0, atol=0.05)


def test_pretraining_and_instruction_tuning_are_one_loop(assets, tmp_path):
    """Texts and pairs, warmed up by the new rows alone; then conversations with pictures on both sides, mixed in."""
    sets = [f"{{path: {assets / name}}}" for name in ("text", "data", "chat")]
    data = "{{seq_len: 192, batch_size: 2, sources: [{}]}}"
    first = write_recipe(assets, tmp_path, data=data.format(", ".join(sets[:2])), method="rows")
    final = train(load_config(TrainConfig, first), progress=False)
    second = write_recipe(assets, tmp_path, data=data.format(", ".join(sets)), model=final, steps=6)
    tuned = load_config(TrainConfig, second, [f"output={tmp_path / 'tuned'}", "trackers=[]"])
    train(tuned, progress=False)
    lines = read_metrics(tmp_path / "tuned" / "metrics.jsonl")
    # The codes of pairs and those that conversations draw are one modality, as are texts and what a turn says.
    assert {"text/loss", "code/loss", "caption/loss", "code/used"} <= {name for line in lines for name in line}
    assert not (tmp_path / "tuned" / "tensorboard").exists()
    assert "<svg" in (tmp_path / "tuned" / "report.html").read_text()


def test_what_a_batch_held_is_described(assets):
    parts = load_checkpoint(assets / "model")
    renderer = Renderer(parts.tokenizer, parts.vocabulary)
    sources = (
        {"path": assets / "text", "weight": 0.5},
        {"path": assets / "data", "reversal": 0.5, "unconditional": 0.0, "paraphrase": False},
    )
    mixture = build_mixture(MixtureConfig(sources=sources, seq_len=128, batch_size=4), renderer)
    batch = next(mixture)
    costs = np.where(batch["loss_mask"] & (batch["positions"] > 0), 2.0, 0.0)
    costs[0, batch["loss_mask"][0].nonzero()[0][-1]] = np.nan
    documents = describe(batch, costs, renderer, [source["path"] for source in sources])
    assert sum(document["tokens"] for document in documents) == np.count_nonzero(batch["segment_ids"])
    assert sum(document["text"].count("[16 codes]") for document in documents) == np.count_nonzero(
        batch["ids"] == parts.vocabulary.boi
    )
    assert {document["task"] for document in documents} == {"text", "text to image", "image to text"}
    for document in documents:
        stored = TokenizedSet(document["set"])
        assert stored.id(document["record"]) == document["id"]
        assert stored[document["record"]].text in document["text"], "the record named is the one that was read"
    assert [document["loss"] for document in worst_first(documents)] == [None] + [2.0] * (len(documents) - 1)


def test_a_bad_step_says_which_records_it_read_and_they_can_be_looked_at(assets, tmp_path, monkeypatch):
    """The gradient of one batch is not finite; what it read is listed, worst first, and shown as the model sees it."""
    sources = f"{{seq_len: 128, batch_size: 2, sources: [{{path: {assets / 'data'}, reversal: 1.0}}]}}"
    path = write_recipe(assets, tmp_path, data=sources)
    real = bad_step.token_costs

    def costs(engine, x, stats):
        found = real(engine, x, stats)
        found[1, :20] = np.nan  # the first document of the second row
        return found

    monkeypatch.setattr(bad_step, "token_costs", costs)
    monkeypatch.setattr(Guard, "judge", lambda self, progress, *_: Trouble("the loss is not finite", math.nan, 1.0))
    with pytest.raises(UserError) as error:
        train(load_config(TrainConfig, path), progress=False)
    report = tmp_path / "run" / "bad" / "step-00000001.json"
    worst = read_json(report)["documents"][0]
    assert worst["loss"] is None
    assert f"most of all record {worst['record']} of {assets / 'data'}: look at them with" in str(error.value)
    assert f"`liquid inspect {report} -c {assets / 'model'}`" in str(error.value)
    shown = CliRunner().invoke(app, ["inspect", str(report), "-c", str(assets / "model")], catch_exceptions=False)
    assert "step 1: the loss is not finite" in shown.output
    assert "not finite" in shown.output.split("loss is not finite")[1]
    assert "ImageToText" in shown.output, "shown as it was trained"
    caption = TokenizedSet(assets / "data")[worst["record"]].text
    assert caption.replace(" ", "") in "".join(shown.output.split()), "the worst one is shown"
    many = CliRunner().invoke(app, ["inspect", str(report), "-c", str(assets / "model"), "-r", "999"])
    assert "there is no document 999" in str(many.exception)
    (tmp_path / "other.json").write_text("{}")
    other = CliRunner().invoke(app, ["inspect", str(tmp_path / "other.json")])
    assert "is no report on a bad training step" in str(other.exception)


def test_validation_and_samples(assets, tmp_path):
    validation = f"{{seq_len: 128, batch_size: 2, sources: [{{path: {assets / 'data'}}}]}}"
    path = write_recipe(assets, tmp_path, validation=validation, validate_every=2, sample_every=2, method="lora")
    seen = []

    def on_sample(checkpoint, step, folder):
        checkpoint.check()
        seen.append((step, folder, checkpoint.llm(torch.arange(5)[None]).logits.shape))

    train(load_config(TrainConfig, path), on_sample=on_sample, progress=False)
    assert [step for step, _, _ in seen] == [2, 4]
    assert seen[0][1] == tmp_path / "run" / "samples" / "step-00000002"
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    validation = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validation] == [2, 4]
    assert {"code/loss", "caption/loss"} <= validation[0].keys()


def test_a_run_is_not_overwritten_and_resumes_with_its_own_settings(assets, tmp_path):
    config = load_config(TrainConfig, write_recipe(assets, tmp_path, sample_every=2))

    def stop(*_):
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        train(config.model_copy(update={"save_every": 1}), on_sample=stop, progress=False)
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        train(config, progress=False)
    with sole_writer(config.output), pytest.raises(UserError, match=f"another process is writing {config.output}"):
        train(config, resume=True, progress=False)
    changed = load_config(TrainConfig, write_recipe(assets, tmp_path), ["lr=1", "data.seq_len=64"])
    with pytest.raises(UserError, match=r"other settings: data\.seq_len, lr differ"):
        train(changed, resume=True, progress=False)
    assert config.rows_per_step == 2
    spread = config.model_copy(
        update={"data": config.data.model_copy(update={"batch_size": 1}), "grad_accum": 2, "trackers": ()}
    )
    final = train(spread, resume=True, progress=False)
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
    before = final.stat().st_mtime_ns
    assert train(spread, resume=True, progress=False) == final
    assert final.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=1", "unknown key 'learning_rate'"),
        ("lora.rnk=1", "unknown key 'lora.rnk': did you mean 'rank'"),
        ("data.sources.0.wieght=1", "did you mean 'weight'"),
        ("method=qlora", "method = 'qlora'.*'full', 'lora' or 'rows'"),
        ("steps=0", "steps = 0.*greater than or equal to 1"),
        ("schedule={kind: wsd, warmup: 0.5, decay: 0.6}", "schedule.*exceed the whole run"),
        ("adapter_base=x", "adapter_base is for method lora or rows"),
        ("trackers=[tensorbord]", "trackers.0 = 'tensorbord'"),
        ("layouts={8: {shard: 8, row: 4}}", "did you mean 'rows'"),
    ],
)
def test_mistakes_in_a_recipe(assets, tmp_path, override, message):
    with pytest.raises(UserError, match=message) as info:
        load_config(TrainConfig, write_recipe(assets, tmp_path), [override])
    assert "recipe.yaml" in str(info.value)


@pytest.mark.parametrize("override", ["model=nowhere", "data.sources=[{path: nowhere}]"])
def test_missing_parts_are_named_before_anything_is_written(assets, tmp_path, override):
    with pytest.raises(UserError, match="nowhere"):
        train(load_config(TrainConfig, write_recipe(assets, tmp_path), [override]), progress=False)
    assert not (tmp_path / "run").exists()
