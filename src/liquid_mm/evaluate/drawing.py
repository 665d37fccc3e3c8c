"""Text-to-image tasks: what they share, and those that other programs score.

genai-bench, mjhq-30k      drawn and scored here: genai_bench.py, mjhq.py
geneval, dpg-bench         drawn here in the layout their official scorers read, which need detectors and judges of
                           their own; the results page gives the command
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.evaluate.asking import draw
from liquid_mm.evaluate.data import DataSource, read_jsonl
from liquid_mm.evaluate.judges import ClipScore, Judge, judge_pictures, load_judge
from liquid_mm.evaluate.pictures import grid_of_four, save_png
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Table, Task, Value, batches


class DrawingTask(Task):
    """Draws `per_prompt` pictures for every example's `prompt`."""

    kind = "text-to-image"
    pictures = ("image",)
    per_prompt = 1

    def predict(self, model: Any, examples: Sequence[Example], context: Context) -> Iterator[Prediction]:
        """Pictures by the settings of the run; the n-th picture of example i has seed + i · per_prompt + n."""
        each = self.per_prompt
        for batch in batches(examples, max(1, context.batch_size // each)):
            prompts = [example.inputs["prompt"] for example in batch for _ in range(each)]
            seeds = [context.settings.seed + example.index * each + n for example in batch for n in range(each)]
            drawn = draw(model, prompts, seeds, context.settings)
            for number, example in enumerate(batch):
                own = slice(number * each, (number + 1) * each)
                files = self.save(example, drawn[own], context.folder)
                yield {"id": example.id, "inputs": dict(example.inputs), "seeds": seeds[own], **files}

    def save(self, example: Example, images: list[Image.Image], folder: Path) -> dict[str, Any]:
        """Write the pictures of an example; returns the fields that name them."""
        return {"image": save_png(images[0], folder, f"images/{example.id}.png")}

    def judged(
        self, predictions: Sequence[Prediction], context: Context
    ) -> tuple[dict[str, list[float]], tuple[str, ...]]:
        """Columns `vqascore` and `clipscore` by the judges the settings name, and a note on each."""
        settings, device = context.settings, context.device
        judges: dict[str, Judge] = {}
        if settings.judge:
            judges["vqascore"] = load_judge(settings.judge, device)
        if settings.clip:
            judges["clipscore"] = ClipScore(settings.clip, device)
        pairs = [(context.folder / p["image"], p["inputs"]["prompt"]) for p in predictions]
        columns = {name: judge_pictures(judge, pairs, context.batch_size) for name, judge in judges.items()}
        notes = tuple(f"{name} by {judge.name}" for name, judge in judges.items())
        return columns, notes

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """Nothing: an external program scores."""
        return Scored([])

    def summarise(self, table: Table) -> dict[str, Value]:
        """Nothing: an external program scores."""
        return {}


class GenEval(DrawingTask):
    """GenEval (Ghosh et al. 2023, arXiv 2310.11513): four pictures a prompt, scored by object detectors.

    Once the official scorer's `results.jsonl` lies in the task's folder, `liquid eval --rescore` takes it in.
    """

    name = "geneval"
    per_prompt = 4
    unit = "prompt"
    pictures = ("grid",)
    data = DataSource(
        "geneval",
        "evaluation_metadata.jsonl of the GenEval repository (prompts/)",
        "MIT",
        command="mkdir -p DIR && curl -L -o DIR/evaluation_metadata.jsonl "
        "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl",
    )
    SCORER = (
        "python evaluation/evaluate_images.py {folder} --outfile {folder}/results.jsonl --model-path DETECTOR "
        "(github.com/djghosh13/geneval), then liquid eval --rescore {run}"
    )

    def examples(self, context: Context) -> Sequence[Example]:
        """One per line of the metadata."""
        path = self.data.require(context.data / "evaluation_metadata.jsonl")
        return [Example(f"{i:05d}", {"prompt": m["prompt"], "metadata": m}, i) for i, m in enumerate(read_jsonl(path))]

    def save(self, example: Example, images: list[Image.Image], folder: Path) -> dict[str, Any]:
        """The official layout: N/metadata.jsonl, N/samples/0000.png …, N/grid.png."""
        files = [save_png(image, folder, f"{example.id}/samples/{i:04d}.png") for i, image in enumerate(images)]
        metadata = json.dumps(example.inputs["metadata"]) + "\n"
        (folder / example.id / "metadata.jsonl").write_text(metadata, encoding="utf-8")
        return {"images": files, "grid": save_png(grid_of_four(images), folder, f"{example.id}/grid.png")}

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """The official scorer's verdict on each picture, if it is there."""
        path = context.folder / "results.jsonl"
        if not path.is_file():
            command = self.SCORER.format(folder=context.folder, run=context.folder.parent)
            return Scored([], notes=(f"drawn, not scored yet: {command}",))
        known = {prediction["id"] for prediction in predictions}
        rows = [
            {
                "id": f"{name}/{Path(line['filename']).name}",
                "prompt": name,
                "tag": line["tag"],
                "correct": float(line["correct"]),
            }
            for line in read_jsonl(path)
            if (name := Path(line["filename"]).parent.parent.name) in known
        ]
        if not rows:
            raise UserError(f"{path} names none of the pictures of this run: it is another run's.")
        return Scored(rows, notes=("scored by GenEval's official program",))

    def summarise(self, table: Table) -> dict[str, Value]:
        """Share of correct pictures per tag, and the mean over tags, as the official summary."""
        tags = np.unique(table["tag"])
        values = {str(tag): _share(table["correct"][table["tag"] == tag]) for tag in tags}
        return {**values, "overall": Value(float(np.mean([v.value for v in values.values()])), len(table["tag"]))}


class DPGBench(DrawingTask):
    """DPG-Bench (Hu et al. 2024, arXiv 2403.05135): four pictures a prompt in one grid, scored by mPLUG-large."""

    name = "dpg-bench"
    per_prompt = 4
    data = DataSource(
        "dpg-bench",
        "the *.txt prompts of the ELLA repository (dpg_bench/prompts)",
        "Apache-2.0",
        command="git clone --depth 1 https://github.com/TencentQQGYLab/ELLA ELLA && cp -r ELLA/dpg_bench/prompts DIR",
    )
    SCORER = (
        "accelerate launch dpg_bench/compute_dpg_bench.py --image-root-path {folder}/images --resolution {side} "
        "--pic-num 4 --vqa-model mplug (github.com/TencentQQGYLab/ELLA)"
    )

    def examples(self, context: Context) -> Sequence[Example]:
        """One per prompt file, named after it."""
        paths = sorted(context.data.glob("*.txt"))
        if not paths:
            raise UserError(f"{context.data} holds no prompts (*.txt).")
        texts = [path.read_text(encoding="utf-8").strip() for path in paths]
        return [Example(p.stem, {"prompt": t}, i) for i, (p, t) in enumerate(zip(paths, texts, strict=True))]

    def save(self, example: Example, images: list[Image.Image], folder: Path) -> dict[str, Any]:
        """The official layout: one grid per prompt, named after it."""
        return {"image": save_png(grid_of_four(images), folder, f"images/{example.id}.png"), "side": images[0].width}

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """Nothing: the note says what does."""
        command = self.SCORER.format(folder=context.folder, side=predictions[0]["side"])
        return Scored([], notes=(f"drawn, not scored: {command}",))


def _share(correct: Any) -> Value:
    return Value(float(correct.mean()), len(correct), binary=True)
