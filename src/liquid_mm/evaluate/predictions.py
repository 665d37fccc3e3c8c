"""predictions.jsonl: every output of a task, one JSON object a line, written the moment it is made.

A killed run goes on where it stopped: what is in the file is not done again, and half a line at its end is dropped.
Runs that share the work of a task (`--shard 2/8`) write a file each, predictions-2-of-8.jsonl, and read all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from liquid_mm.evaluate.protocol import Example, Prediction
from liquid_mm.files import disk_errors

Shard = tuple[int, int]
"""(number from 1, how many)"""


def predictions_file(folder: Path, shard: Shard | None) -> Path:
    """The file a run writes."""
    return folder / (f"predictions-{shard[0]}-of-{shard[1]}.jsonl" if shard else "predictions.jsonl")


def of_shard(examples: Sequence[Example], shard: Shard | None) -> Sequence[Example]:
    """A shard's part: every n-th example, so that all shards take about the same time."""
    return examples[shard[0] - 1 :: shard[1]] if shard else examples


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions in `folder`, by id."""
    found: dict[str, Prediction] = {}
    for path in sorted(folder.glob("predictions*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            # A line without its end was being written when the run was killed.
            for line in lines:
                if line.endswith("\n"):
                    prediction = json.loads(line)
                    found[prediction["id"]] = prediction
    return found


def append_predictions(path: Path, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Write `predictions` behind what is in `path`, each as it comes, and pass it on."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_a_line(path)
        with path.open("a", encoding="utf-8") as file:
            for prediction in predictions:
                file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
                file.flush()
                yield prediction


def _drop_half_a_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
