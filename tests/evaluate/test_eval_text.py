import json

import pytest
import torch

pytest.importorskip("lm_eval", reason="text tasks are scored by lm-eval")

from evalkit import write_jsonl

from liquid_mm.errors import UserError
from liquid_mm.evaluate import run
from liquid_mm.evaluate.protocol import Context
from liquid_mm.evaluate.registry import TASKS, find_tasks
from liquid_mm.evaluate.settings import EvalSettings

DOCS = [
    {"passage": "A duck swims on the river", "question": "is it in the water", "label": 1},
    {"passage": "A red apple lies on a table", "question": "is it a ball", "label": 0},
    {"passage": "There are three boats", "question": "are there boats", "label": 1},
]
TASK = """
task: boolq
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {path}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{passage}}}}\\nQuestion: {{{{question}}}}?\\nAnswer:"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list:
  - metric: acc
"""


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A task file that takes the place of lm-eval's own BoolQ, with data in a file."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_jsonl(tmp_path / "lm-eval" / "docs.jsonl", DOCS)
    (tmp_path / "lm-eval" / "boolq.yaml").write_text(TASK.format(path=tmp_path / "lm-eval" / "docs.jsonl"))
    return tmp_path


@torch.inference_mode()
def log_likelihood(model, prompt, choice):
    """The slow way: one forward pass over prompt and choice."""
    encode = model.checkpoint.tokenizer
    both, start = encode(prompt + choice)["input_ids"], len(encode(prompt)["input_ids"])
    logs = model.checkpoint.llm(torch.tensor([both])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, both[i]]) for i in range(start, len(both)))


def test_a_text_task_end_to_end(local, tiny_folder):
    from liquid_mm.generate.model import load

    out = local / "o"
    results = run.evaluate(str(tiny_folder), ["boolq"], out, data_dir=local, device="cpu", dtype="float32")
    predictions = [json.loads(line) for line in (out / "boolq" / "predictions.jsonl").read_text().splitlines()]
    model, right = load(tiny_folder, device="cpu", dtype="float32"), []
    for prediction, doc in zip(predictions, DOCS, strict=True):
        prompt = f"{doc['passage']}\nQuestion: {doc['question']}?\nAnswer:"
        slow = [log_likelihood(model, prompt, f" {choice}") for choice in ("no", "yes")]
        assert prediction["log_likelihoods"] == pytest.approx(slow, abs=1e-3)
        right.append(float((slow[1] > slow[0]) == bool(doc["label"])))
        assert prediction["acc"] == right[-1]
    value = results["tasks"]["boolq"]["values"]["acc"]
    assert (value["value"], value["n"]) == (pytest.approx(100 * sum(right) / 3), 3)
    assert results["tasks"]["boolq"]["notes"] == ["by lm-eval with 0 shots"]
    assert "lm-eval" in results["versions"]


def test_every_text_task_on_the_demo_model(local):
    write_jsonl(local / "lm-eval" / "docs.jsonl", DOCS * 3)  # MMLU has five solved ones before the question
    tasks = find_tasks(["text"])
    for task in tasks:
        text = TASK.format(path=local / "lm-eval" / "docs.jsonl").replace("boolq", task.lm_eval_name)
        (local / "lm-eval" / f"{task.lm_eval_name}.yaml").write_text(text)
    settings = EvalSettings(limit=2)
    results = run.evaluate("demo", ["text"], local / "o", settings, data_dir=local, device="cpu")
    values = {name: task["values"]["acc"] for name, task in results["tasks"].items()}
    assert values.keys() == {task.name for task in tasks}
    assert all(0 <= value["value"] <= 100 and value["n"] == 2 for value in values.values())
    assert results["tasks"]["mmlu"]["notes"] == ["by lm-eval with 5 shots"]


def test_the_papers_tasks_and_shots():
    shots = {task.name: task.shots for task in find_tasks(["text"])}
    assert shots == {
        "boolq": 0, "piqa": 0, "siqa": 0, "hellaswag": 0, "winogrande": 0, "arc-easy": 0, "arc-challenge": 0,
        "openbookqa": 0, "mmlu": 5,
    }  # fmt: skip


def test_a_task_whose_data_are_out_of_reach_says_so(local):
    (local / "lm-eval" / "docs.jsonl").unlink()
    with pytest.raises(UserError, match=r"lm-eval cannot load boolq: .*licences"):
        TASKS["boolq"].examples(Context(EvalSettings(), local / "o", local))
