"""Run by hand where lmms-eval is installed: its official tasks on small data of its layouts, beside our own scores.

    python -m venv lmms && lmms/bin/pip install lmms-eval==0.7.3 .
    lmms/bin/python tests/evaluate/beside_lmms_eval.py [CHECKPOINT]      the demo model by default

POPE, MME, VQAv2 and TextVQA are lmms-eval's own task files, questions, prompts and scorers; only the pictures are ours.
Ends with exit code 1 where a score of `liquid eval` on the same data is another one. But for one known difference:
lmms-eval's POPE wants the bare word, POPE's own rule, which is ours, also takes "Yes." or a sentence.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import datasets
import lmms_eval
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image, ImageDraw

from liquid_mm.evaluate.lmms import Liquid
from liquid_mm.evaluate.predictions import read_predictions
from liquid_mm.evaluate.run import evaluate

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (30, 160, 60), "yellow": (240, 210, 40)}
OFFICIAL = {"pope": "pope/pope.yaml", "mme": "mme/mme.yaml", "vqav2": "vqav2/vqav2_val.yaml"}
OFFICIAL["textvqa"] = "textvqa/textvqa_val.yaml"
SPLIT = {"pope": "test", "mme": "test", "vqav2": "validation", "textvqa": "validation"}
SAME = {
    "pope": {"accuracy": "pope_accuracy", "precision": "pope_precision", "recall": "pope_recall"},
    "mme": {"perception": "mme_perception_score"},
    "vqav2": {"accuracy": "exact_match"},
    "textvqa": {"accuracy": "exact_match"},
}


def pictures(folder: Path) -> list[tuple[Path, str]]:
    """A disc in each colour."""
    made = []
    for name, colour in COLOURS.items():
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse((16, 16, 80, 80), fill=colour)
        image.save(folder / f"{name}.png")
        made.append((folder / f"{name}.png", name))
    return made


def rows_of(task: str, made: list[tuple[Path, str]]) -> list[dict]:
    """Questions in the layout both sides read, `image` being a path."""
    rows = []
    for number, (path, name) in enumerate(made):
        if task in ("pope", "mme"):
            for said in (name, "purple"):
                answer = "yes" if said == name else "no"
                row = {"image": str(path), "question": f"Is the disc {said}?", "answer": answer, "category": "random"}
                if task == "mme":
                    row |= {"question": row["question"] + " Please answer yes or no.", "answer": answer.title()}
                    row |= {"category": "color", "question_id": f"color/{number}.png"}
                else:
                    row["question_id"] = str(len(rows))
                rows.append(row)
            continue
        people = [name] * 6 + ["round"] * 4
        answers = people if task == "textvqa" else [{"answer": a, "answer_id": i} for i, a in enumerate(people)]
        row = {"image": str(path), "question": "What colour is it?", "answers": answers, "question_id": number}
        rows.append(row | {"question_type": "what", "multiple_choice_answer": name, "answer_type": "other"})
    return rows


def official(task: str, rows: list[dict], folder: Path) -> Path:
    """lmms-eval's task file with this data in place of the Hub's; returns it."""
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(folder / f"{task}.parquet")
    source = Path(lmms_eval.__file__).parent / "tasks" / OFFICIAL[task]
    data = f"dataset_path: parquet\ndataset_kwargs: {{data_files: {{{SPLIT[task]}: {folder / task}.parquet}}}}\n"
    path = folder / "tasks" / f"{task}_here.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"include: {source}\ntask: {task}_here\n{data}")
    return path


def ours(task: str, rows: list[dict], data: Path) -> None:
    """The same data where `liquid eval --data-dir` looks."""
    name = {"pope": "pope.jsonl", "mme": "mme.jsonl"}.get(task, "val.jsonl")
    (data / task).mkdir(parents=True)
    plain = [row | {"answers": [a["answer"] for a in row["answers"]]} if task == "vqav2" else row for row in rows]
    (data / task / name).write_text("".join(json.dumps(row) + "\n" for row in plain))


def main() -> int:
    """Compare, print, and say whether all is equal."""
    checkpoint = sys.argv[1] if len(sys.argv) > 1 else "demo"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = pictures(folder)
        for task in SAME:
            rows = rows_of(task, made)
            official(task, rows, folder)
            ours(task, rows, folder / "data")
        results = evaluate(checkpoint, list(SAME), folder / "out", data_dir=folder / "data", device="cpu")
        manager = TaskManager(include_path=str(folder / "tasks"))
        said = {p["answer"] for p in read_predictions(folder / "out" / "pope").values()}
        theirs = simple_evaluate(
            model=Liquid(checkpoint, device="cpu"), tasks=[f"{task}_here" for task in SAME], task_manager=manager
        )
    same = True
    for task, names in SAME.items():
        for mine, official_name in names.items():
            a = results["tasks"][task]["values"][mine]["value"]
            b = theirs["results"][f"{task}_here"][f"{official_name},none"]
            scale = 1.0 if task == "mme" else 100.0
            equal = abs(a - scale * b) < 1e-6 or abs(a - b) < 1e-6
            bare = task != "pope" or {word.lower() for word in said} <= {"yes", "no"}
            same = same and (equal or not bare)
            verdict = "same" if equal else "DIFFERENT" if bare else f"other rule: {sorted(said)}"
            print(f"{task:>8} {mine:<11} liquid eval {a:8.3f}   lmms-eval {b:8.4f}   {verdict}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
