"""From run folders to two small tables, and the list of what was left out.

    scaling_runs.csv     a line per finished run: its cell, sizes, tokens, FLOPs, time, last validation
    scaling_curves.csv   a line per validation of those runs: Figure 4's curves

A run is left out, with its reason, when

- it has no `final/`: it was never finished (the reason it stopped is in its `cell.json`);
- it never validated after its last step;
- one of its validation losses, or a training loss that was reported, is not a number (the file says `null` of such);
- it diverged: the mean training loss of its last three reports is more than `DIVERGED` nats above the lowest mean of
  three successive reports before them. Overfitting does not count: that is the validation loss alone.

A training report without a loss (every step since the last one was skipped as bad) counts for its tokens alone.

Nothing else leaves a run out, and no run is ever left out silently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file, read_json, write_json
from liquid_mm.scaling.folder import CELL, finished, parameters, pick, read_config, read_metrics

MODALITIES = ("text", "code", "caption")
"""What losses are told apart by: documents, pictures drawn, pictures described."""

MEASURES = tuple(f"{modality}_{name}" for modality in MODALITIES for name in ("loss", "accuracy"))
"""Columns of both tables; empty where a run's validation had no such targets."""

DIVERGED = 0.5
WINDOW = 3

RUNS, CURVES, LEFT_OUT = "scaling_runs.csv", "scaling_curves.csv", "scaling_left_out.json"


class LeftOut(NamedTuple):
    """A run that no fit may see, and why."""

    cell: str
    reason: str


class Tables(NamedTuple):
    """All that is needed for fits and figures."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    left_out: list[LeftOut]


class Unusable(Exception):
    """Internal: a run is to be left out; the message is the reason."""


def collect(study: str | Path) -> Tables:
    """Read every run folder below `study`.

    Raises:
        UserError: there are none, or all were left out.
    """
    study = Path(study)
    folders = sorted(path.parent for path in study.glob(f"*/{CELL}"))
    if not folders:
        raise UserError(f"{study} holds no run folders of `liquid scaling run` (*/{CELL}) and no {RUNS}.")
    rows, curves, left_out = [], [], []
    for folder in folders:
        try:
            row, curve = _read(folder)
        except Unusable as reason:
            left_out.append(LeftOut(folder.name, str(reason)))
        else:
            rows.append(row)
            curves += curve
    if not rows:
        listed = "".join(f"\n  {cell}: {reason}" for cell, reason in left_out)
        raise UserError(f"none of the {len(folders)} runs in {study} can be used:{listed}")
    runs = pd.DataFrame(rows).sort_values(["parameters", "mix", "length", "seed", "cell"], ignore_index=True)
    return Tables(runs, pd.DataFrame(curves), left_out)


def load_tables(folder: str | Path) -> Tables:
    """What `save_tables` wrote.

    Raises:
        UserError: a file is missing or not a table.
    """
    folder = Path(folder)
    text = {"cell": str, "size": str, "mix": str}
    try:
        runs, curves = (pd.read_csv(folder / name, dtype=text) for name in (RUNS, CURVES))
    except FileNotFoundError as error:
        raise UserError(f"there is no table {error.filename}: write it with `liquid scaling fit`.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"the tables in {folder} cannot be read: {error}") from error
    return Tables(runs, curves, [LeftOut(**line) for line in read_json(folder / LEFT_OUT)])


def save_tables(tables: Tables, folder: str | Path) -> None:
    """Write the tables into `folder`, six significant digits."""
    folder = Path(folder)
    for name, frame in ((RUNS, tables.runs), (CURVES, tables.curves)):
        with atomic_file(folder / name) as part:
            frame.to_csv(part, index=False, float_format="%.6g")
    write_json(folder / LEFT_OUT, [line._asdict() for line in tables.left_out])


def diverged(losses: Iterable[float]) -> bool:
    """Whether training losses, oldest first, end more than `DIVERGED` above where they have been."""
    values = np.array(list(losses))
    if len(values) < 2 * WINDOW:
        return False
    means = np.lib.stride_tricks.sliding_window_view(values, WINDOW).mean(-1)
    return bool(means[-1] > means[:-WINDOW].min() + DIVERGED) or not np.isfinite(means).all()


def _read(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's line of the first table and its lines of the second."""
    cell = read_json(run / CELL)
    if not finished(run):
        raise Unusable(f"it has no final/: {cell.get('failure') or 'not finished yet'}")
    reports = read_metrics(run)
    train = [line for line in reports if line["kind"] == "train"]
    validations = [line for line in reports if line["kind"] == "validation"]
    steps = read_config(run)["steps"]
    if not validations or validations[-1]["step"] != steps:
        raise Unusable(f"it was not validated after its last step, {steps}: its recipe needs `validation`")
    losses = [line["loss"] for line in train if "loss" in line]
    validated = [line.get("loss") for line in validations]
    if not all(loss is not None and math.isfinite(loss) for loss in (*losses, *validated)):
        raise Unusable("a loss is not a number")
    if diverged(losses):
        raise Unusable(f"it diverged: its training loss ended over {DIVERGED} nats above its lowest")
    size = parameters(run / "final")
    at, tokens = [0, *(line["step"] for line in train)], [0, *(line["tokens"] for line in train)]
    points = []
    for line in validations:
        seen = float(np.interp(line["step"], at, tokens))
        measures = {name: line.get(name.replace("_", "/")) for name in MEASURES}
        points.append({"step": line["step"], "tokens": seen, "flops": size.flops(seen), **measures})
    seconds = sum(
        (new - old) / line["tokens_per_second"] for old, new, line in zip(tokens, tokens[1:], train, strict=False)
    )
    names = {"cell": run.name, **{key: cell[key] for key in ("size", "start", "family", "mix", "length", "seed")}}
    trained = "+".join(m for m in MODALITIES if any(f"{m}/loss" in line for line in train))
    models = {"trained": trained, "parameters": size.body, "head": size.head, "seconds": seconds}
    row = {**names, **models, **points[-1], **_score(run, cell.get("score"))}
    return row, [{"cell": run.name, **point} for point in points]


def _score(run: Path, score: dict[str, Any] | None) -> dict[str, Any]:
    """The image score, signed so that more is better only where the grid says so; empty if it was not measured."""
    if score is None or not (run / score["file"]).exists():
        return {"score": None, "score_higher_is_better": None}
    try:
        value = float(pick(json.loads((run / score["file"]).read_text(encoding="utf-8")), score["key"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / score['file']} holds no number at {score['key']!r} (the grid's score.key).") from error
    return {"score": value, "score_higher_is_better": score["higher_is_better"]}
