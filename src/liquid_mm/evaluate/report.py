"""Several evaluations beside each other and beside the paper.

    | task | value | paper | runs/a | runs/b | runs/b − runs/a |
    | pope | f1_mean | 81.1 | 78.0 [76.9, 79.1] | 80.2 [79.1, 81.2] | +2.2 [+1.0, +3.3] |

Differences are to the first run. Over the same examples they are resampled together, so that what is hard for both
does not blur them; values of whole sets (Fréchet distances) have a difference but no interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liquid_mm.errors import UserError
from liquid_mm.evaluate.data import read_jsonl
from liquid_mm.evaluate.paper import PAPER
from liquid_mm.evaluate.protocol import Table, to_table
from liquid_mm.evaluate.registry import TASKS
from liquid_mm.evaluate.stats import bootstrap_difference
from liquid_mm.files import read_json

Cell = tuple[float, float | None, float | None]
"""A number and its interval, if it has one."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One value: the paper's figure, each run's, and each later run's difference to the first."""

    task: str
    value: str
    paper: float | None
    runs: list[Cell | None]
    differences: list[Cell | None]


def compare(folders: Sequence[str | Path]) -> list[Line]:
    """The values of the evaluations in `folders`, the first being what the others are compared with.

    Raises:
        UserError: a folder is no evaluation.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise UserError("name the folders of one or more evaluations.")
    tasks = [_tasks(path) for path in paths]
    names = [name for name in TASKS if any(name in mine for mine in tasks)]
    return [line for name in names for line in _lines(name, paths, tasks)]


def markdown(lines: Sequence[Line], folders: Sequence[str | Path]) -> str:
    """The lines as a Markdown table."""
    first, *others = [str(folder) for folder in folders]
    heads = ["task", "value", "paper", first, *others, *(f"{other} − {first}" for other in others)]
    rows = [
        [line.task, line.value, "" if line.paper is None else _number(line.paper)]
        + [_cell(cell) for cell in line.runs]
        + [_cell(cell, sign=True) for cell in line.differences]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]) + "\n"


def _tasks(path: Path) -> dict[str, Any]:
    if not (path / "results.json").is_file():
        raise UserError(f"{path} has no results.json: it is no evaluation, or it is not finished.")
    tasks: dict[str, Any] = read_json(path / "results.json")["tasks"]
    return tasks


def _lines(name: str, paths: list[Path], tasks: list[dict[str, Any]]) -> list[Line]:
    mine = [task.get(name, {}).get("values", {}) for task in tasks]
    tables = [
        _table(path / name / "scores.jsonl") if name in task else {} for path, task in zip(paths, tasks, strict=True)
    ]
    paired = [_paired(name, tables[0], table) for table in tables[1:]]
    lines = []
    for value in dict.fromkeys(value for values in mine for value in values):
        runs = [_value(values.get(value)) for values in mine]
        differences = [
            pairs.get(value) or _plain_difference(runs[0], run) for pairs, run in zip(paired, runs[1:], strict=True)
        ]
        lines.append(Line(name, value, PAPER.get((name, value)), runs, differences))
    return lines


def _table(path: Path) -> Table:
    return to_table(list(read_jsonl(path))) if path.is_file() else {}


def _paired(name: str, first: Table, second: Table) -> dict[str, Cell]:
    if not (first and second and set(first["id"]) & set(second["id"])):
        return {}
    found = bootstrap_difference(first, second, TASKS[name].summarise, TASKS[name].unit)
    return {value: (difference, *bounds) for value, (difference, bounds) in found.items()}


def _value(entry: dict[str, Any] | None) -> Cell | None:
    return (entry["value"], entry["low"], entry["high"]) if entry else None


def _plain_difference(first: Cell | None, other: Cell | None) -> Cell | None:
    return (other[0] - first[0], None, None) if first and other else None


def _cell(cell: Cell | None, sign: bool = False) -> str:
    if cell is None:
        return ""
    value, low, high = cell
    bounds = "" if low is None or high is None else f" [{_number(low, sign)}, {_number(high, sign)}]"
    return _number(value, sign) + bounds


def _number(value: float, sign: bool = False) -> str:
    digits = 3 if abs(value) < 2 else 2 if abs(value) < 20 else 1
    return f"{value:{'+' if sign else ''}.{digits}f}"
