"""Run tasks on a checkpoint and write everything that made the numbers beside them.

    OUT/run.json                   what was run: checkpoint and its hash, settings, where the data are
    OUT/TASK/predictions.jsonl     every single output; pictures beside it
    OUT/TASK/scores.jsonl          the numbers of each example
    OUT/results.json               values with 95 % intervals, n, settings, versions, hashes
    OUT/index.html                 the same to look at, with pictures

The same command goes on after a kill. `rescore` makes the last three again from the predictions, without the model.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from liquid_mm.config import changed_keys
from liquid_mm.errors import UserError
from liquid_mm.evaluate.asking import sampling_of
from liquid_mm.evaluate.data import data_hash
from liquid_mm.evaluate.page import write_page
from liquid_mm.evaluate.predictions import Shard, append_predictions, of_shard, predictions_file, read_predictions
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Task, Value, to_table
from liquid_mm.evaluate.registry import find_tasks
from liquid_mm.evaluate.settings import SCORING, EvalSettings
from liquid_mm.evaluate.stats import bootstrap, interval
from liquid_mm.files import atomic_file, read_json, write_json

FORMAT = 1
PACKAGES = (
    "liquid-mm",
    "torch",
    "transformers",
    "diffusers",
    "numpy",
    "pillow",
    "lm-eval",
    "clean-fid",
    "torchmetrics",
)


def evaluate(
    checkpoint: str,
    tasks: Sequence[str],
    out: str | Path,
    settings: EvalSettings | None = None,
    *,
    data_dir: str | Path | None = None,
    batch_size: int = 8,
    shard: Shard | None = None,
    cluster: bool = False,
    workers: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Run `tasks` on a checkpoint.

    Args:
        checkpoint: a folder, or "demo".
        tasks: names or kinds, see `registry`.
        out: the folder to write, or to go on with.
        settings: everything that changes numbers.
        data_dir: where the tasks' data are; None takes them from the Hugging Face Hub.
        batch_size: pictures computed at once.
        shard: (k, n) does the k-th of n parts; whichever run ends last scores.
        cluster: predict on Ray; this process writes and scores.
        workers: Ray actors, each with the model; None takes one for each GPU.
        device, dtype: as `liquid_mm.load`.

    Returns:
        what `results.json` holds.

    Raises:
        UserError: a name, the checkpoint, the data or `out` is not right.
    """
    settings, out = settings or EvalSettings(), Path(out)
    work = find_work(tasks, out, settings, data_dir=data_dir, batch_size=batch_size, shard=shard, device=device)
    _begin(out, checkpoint, settings, {each.task.name: each.context.data for each in work})
    todo = [each for each in work if each.left]
    if cluster:
        _predict_on_ray(checkpoint, {each.task.name: (each.context, each.left) for each in todo}, shard, workers, dtype)
    elif todo:
        model = load_model(checkpoint, device, dtype)
        for each in todo:
            _predict(each.task, model, each.left, each.context, shard)
    return _finish(out, {each.task.name: (each.task, each.context, each.examples) for each in work})


class Work(NamedTuple):
    """A task of a run: all its examples, how many are done, and those that this part of the run has still to do."""

    task: Task
    context: Context
    examples: Sequence[Example]
    done: int
    left: list[Example]


def find_work(
    tasks: Sequence[str],
    out: Path | None,
    settings: EvalSettings,
    *,
    data_dir: str | Path | None = None,
    batch_size: int = 8,
    shard: Shard | None = None,
    device: str | None = None,
) -> list[Work]:
    """What `evaluate` would do, by task; nothing is written. Without a folder `out` nothing is done yet.

    Raises:
        UserError: as `evaluate`.
    """
    if shard and not 1 <= shard[0] <= shard[1]:
        raise UserError(f"shard {shard[0]}/{shard[1]}: the first number is from 1 to the second.")
    sampling_of(settings)
    chosen = find_tasks(tasks)
    folders = [_data(task, data_dir) for task in chosen]  # what is missing is said before anything long is read
    work = []
    for task, data in zip(chosen, folders, strict=True):
        context = Context(settings, (out or Path()) / task.name, data, batch_size, device)
        examples = task.examples(context)[: settings.limit]
        done = read_predictions(context.folder) if out else {}
        left = [example for example in of_shard(examples, shard) if example.id not in done]
        work.append(Work(task, context, examples, sum(example.id in done for example in examples), left))
    return work


def rescore(out: str | Path, changes: dict[str, Any] | None = None, device: str | None = None) -> dict[str, Any]:
    """Score the predictions in `out` again, without the model; `changes` are settings of `settings.SCORING`.

    Raises:
        UserError: `out` is no evaluation, or its data are gone.
    """
    out = Path(out)
    run = read_json(out / "run.json")
    settings = EvalSettings.model_validate({**run["settings"], **(changes or {})})
    assert set(changes or {}) <= set(SCORING), "other settings change predictions"
    sets = {}
    for task in find_tasks([name for name in run["data"] if (out / name).is_dir()]):
        context = Context(settings, out / task.name, Path(run["data"][task.name]), device=device)
        sets[task.name] = (task, context, task.examples(context)[: settings.limit])
    write_json(out / "run.json", {**run, "settings": settings.model_dump(mode="json")})
    return _finish(out, sets)


def model_hash(checkpoint: str) -> str:
    """16 hex digits over the name and content of every file of a checkpoint."""
    from liquid_mm.vocab.base import file_sha256

    folder = Path(__file__).parent.parent / "demo" if checkpoint == "demo" else Path(checkpoint)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UserError(f"there is no checkpoint folder {folder}.")
    names = (f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in files)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _data(task: Task, data_dir: str | Path | None) -> Path:
    return task.data.locate(data_dir) if task.data else Path(data_dir or "data")


def _begin(out: Path, checkpoint: str, settings: EvalSettings, data: dict[str, Path]) -> None:
    """Write run.json, or check that the run in `out` is this one."""
    run: dict[str, Any] = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "model_hash": model_hash(checkpoint),
        "settings": settings.model_dump(mode="json"),
        "data": {name: str(path.resolve()) for name, path in data.items()},
    }
    if (out / "run.json").is_file():
        before = read_json(out / "run.json")
        if before["model_hash"] != run["model_hash"]:
            raise UserError(
                f"{out} holds an evaluation of another model ({before['checkpoint']}): choose another folder."
            )
        changed = changed_keys(EvalSettings.model_validate(before["settings"]), settings)
        if bad := [key for key in changed if key not in (*SCORING, "limit")]:
            raise UserError(
                f"{out} was begun with another {', '.join(bad)}: choose another folder, or the same settings."
            )
        run["data"] = {**before["data"], **run["data"]}
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is no evaluation: choose another folder.")
    write_json(out / "run.json", run)


def load_model(checkpoint: str, device: str | None, dtype: str | None) -> Any:
    """The checkpoint's model."""
    from liquid_mm.generate.model import load

    return load(checkpoint, device=device, dtype=dtype)


def _predict(task: Task, model: Any, todo: list[Example], context: Context, shard: Shard | None) -> None:
    with tqdm(total=len(todo), desc=task.name, unit="example", disable=None) as bar:
        made = task.predict(model, todo, context)
        for _ in append_predictions(predictions_file(context.folder, shard), made):
            bar.update()


def _predict_on_ray(
    checkpoint: str,
    todo: dict[str, tuple[Context, list[Example]]],
    shard: Shard | None,
    workers: int | None,
    dtype: Any,
) -> None:
    from liquid_mm.evaluate.cluster import predict_on_ray

    with tqdm(total=sum(len(left) for _, left in todo.values()), unit="example", disable=None) as bar:
        for found in predict_on_ray(checkpoint, todo, workers=workers, dtype=dtype):
            folder = todo[found.task][0].folder
            found.save_files(folder)  # a line in the file says that its pictures are there
            for _ in append_predictions(predictions_file(folder, shard), found.predictions):
                bar.update()


def _finish(out: Path, sets: dict[str, tuple[Task, Context, Sequence[Example]]]) -> dict[str, Any]:
    """Score every task all of whose predictions are there, and write results and page."""
    run = read_json(out / "run.json")
    old = read_json(out / "results.json")["tasks"] if (out / "results.json").is_file() else {}
    tasks = {**old}
    for name, (task, context, examples) in sets.items():
        made = read_predictions(context.folder)
        predictions = [made[example.id] for example in examples if example.id in made]
        if len(predictions) == len(examples):
            tasks[name] = _result(task, predictions, examples, context)
    results = {**run, "versions": versions(), "tasks": tasks}
    write_json(out / "results.json", results)
    write_page(out, results)
    return results


def _result(task: Task, predictions: list[Prediction], examples: Sequence[Example], context: Context) -> dict[str, Any]:
    scored = task.score(predictions, context)
    with atomic_file(context.folder / "scores.jsonl") as part:
        part.write_text("".join(json.dumps(row, default=_plain) + "\n" for row in scored.rows), encoding="utf-8")
    return {
        "kind": task.kind,
        "n": len(predictions),
        "settings": context.settings.model_dump(mode="json"),
        "data_hash": data_hash(examples),
        "notes": list(scored.notes),
        "values": values_of(task, scored, context.settings.seed),
    }


def values_of(task: Task, scored: Scored, seed: int) -> dict[str, Any]:
    """Every value of a task with its interval, as JSON; one of the whole set has what scoring gave it, or none."""
    found: dict[str, Any] = {name: _json(value, value.bounds) for name, value in scored.whole.items()}
    if scored.rows:
        table = to_table(scored.rows)
        intervals = bootstrap(table, task.summarise, task.unit, seed=seed)
        for name, value in task.summarise(table).items():
            found[name] = _json(value, interval(value, intervals[name]))
    return found


def _json(value: Value, bounds: tuple[float, float] | None) -> dict[str, Any]:
    low, high = bounds or (None, None)
    return {"value": value.value, "low": low, "high": high, "n": value.n}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that may change a number, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    return value.item()  # numpy's numbers and booleans
