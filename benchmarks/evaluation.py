"""What evaluating adds to generating: the same pictures and answers by the model alone and by a task, by turns.

    python -m benchmarks.evaluation                      16 pictures and 16 answers, 7 times each
    python -m benchmarks.evaluation --quick              8 of each, 3 times
    python -m benchmarks.evaluation --json results.json  also what was measured

A task's way includes its prompts, PNG files, predictions.jsonl and progress. Networks that score (a judge, the feature
net of a Fréchet distance) run after all is drawn; the smallest, EfficientNet-lite0, is timed apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.table import seconds
from PIL import Image

import liquid_mm
from liquid_mm.evaluate.asking import answer, draw
from liquid_mm.evaluate.features import folds_of, load_features
from liquid_mm.evaluate.mjhq import MJHQ30K
from liquid_mm.evaluate.predictions import append_predictions
from liquid_mm.evaluate.protocol import Context, Example, Task
from liquid_mm.evaluate.settings import EvalSettings
from liquid_mm.evaluate.understanding import POPE

THINGS = ("an apple", "a cat", "a house", "a tree", "a car", "a fish", "a star", "a dog")
QUESTION = "Is there an apple?"


def measure(checkpoint: str, number: int, turns: int) -> list[dict[str, Any]]:
    """A line per case: medians in seconds, and the median of the turns' differences as a share of the model's."""
    model = liquid_mm.load(checkpoint)
    settings = EvalSettings(guidance_scale=1.0)
    prompts = [f"{THINGS[i % len(THINGS)]}, 3D style" for i in range(number)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [Image.new("RGB", (64, 64), (40 * (i % 6), 90, 160)) for i in range(number)]
        for i, image in enumerate(images):
            image.save(folder / f"{i}.png")
        drawn = [Example(f"{i:05d}", {"prompt": prompt, "category": "x"}, i) for i, prompt in enumerate(prompts)]
        truth = {"question": QUESTION, "answer": "no", "category": "random"}
        asked = [Example(str(i), truth, i, folder / f"{i}.png") for i in range(number)]

        def by_task(task: Task, examples: list[Example]) -> Callable[[], object]:
            def work() -> object:
                out = folder / task.name
                shutil.rmtree(out, ignore_errors=True)
                made = task.predict(model, examples, Context(settings, out, folder, batch_size=number))
                return list(append_predictions(out / "predictions.jsonl", made))

            return work

        pope = POPE()
        question = pope.prompt(QUESTION)
        cases = {
            f"{number} pictures": (
                lambda: draw(model, prompts, list(range(number)), settings),
                by_task(MJHQ30K(), drawn),
            ),
            f"{number} answers": (
                lambda: answer(model, [(question, image) for image in images], settings.max_new_tokens),
                by_task(pope, asked),
            ),
        }
        found = []
        for case, (alone, task) in cases.items():
            alone(), task()
            pairs = [(seconds(alone), seconds(task)) for _ in range(turns)]
            base = statistics.median(first for first, _ in pairs)
            added = statistics.median(second - first for first, second in pairs)
            line = {"case": case, "alone": base, "task": base + added, "overhead": added / base, "turns": turns}
            found.append(line)
            print(f"{case:>12}: by the model {base:6.2f} s, by a task {base + added:6.2f} s, {added / base:+.1%}")
        net = load_features("efficientnet-lite0", None)
        folds_of(images, net)
        each = statistics.median(seconds(lambda: folds_of(images, net)) for _ in range(turns)) / number
        found.append({"case": "EfficientNet-lite0 features", "seconds": each, "turns": turns})
        print(f"{'features':>12}: {1e3 * each:.1f} ms a picture by EfficientNet-lite0")
    return found


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--number", type=int, default=16)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="8 of each, 3 turns")
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    options = parser.parse_args()
    quick = {"number": 8, "turns": 3} if options.quick else {"number": options.number, "turns": options.turns}
    measured = measure(options.checkpoint, **quick)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
