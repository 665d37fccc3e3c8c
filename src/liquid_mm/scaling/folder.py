"""What a run folder says: its cell, its settings, its model's size, its measurements. Never its log.

    RUN/cell.json       {"size": "1M", "mix": "both", "length": 1.0, "seed": 0, "start": "random", "family": "shape", …}
        config.yaml     the training recipe as it ran
        metrics.jsonl   losses over training
        final/          the finished model
        log.txt         what the command printed

The log is for people: nothing is read from it but the last line, to say why a cell failed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from safetensors import safe_open

from liquid_mm.errors import UserError
from liquid_mm.files import read_json

CELL = "cell.json"
LOG = "log.txt"


class Parameters(NamedTuple):
    """Sizes of a model: parameters outside embedding tables, and of one such table (the output head's share)."""

    body: int
    head: int

    def flops(self, tokens: float) -> float:
        """FLOPs of training on `tokens`: 6 per token and parameter multiplied with, attention scores not counted.

        The head counts (in small models it is much of the work), the embedding does not (a look-up multiplies nothing).
        What attention scores would add is in docs/scaling.md.
        """
        return 6.0 * (self.body + self.head) * tokens


def parameters(folder: Path) -> Parameters:
    """Count the parameters of a checkpoint folder from the headers of its weight files.

    An embedding table is a matrix with one row per id of the vocabulary, whatever the family calls it; tied heads are
    stored once, untied ones twice, and neither is part of the body (Kaplan et al. 2020, arXiv 2001.08361).

    Raises:
        UserError: no Liquid checkpoint with weights of its own.
    """
    v = read_json(folder / "liquid.json")["vocabulary"]
    rows = v["code_offset"] + v["num_codes"]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors) to count.")
    shapes: list[list[int]] = []
    for file in files:
        with safe_open(file, framework="numpy") as weights:
            shapes += [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - not a mapping
    tables = [shape for shape in shapes if len(shape) == 2 and shape[0] == rows]
    if not tables:
        raise UserError(f"{folder} has no table of {rows} rows: its weights and its liquid.json do not fit.")
    body = sum(math.prod(shape) for shape in shapes) - sum(math.prod(table) for table in tables)
    return Parameters(body=body, head=math.prod(tables[-1]))


def finished(run: Path) -> bool:
    """Whether the run came to its end; `final/` appears whole or not at all."""
    return (run / "final").is_dir()


def read_config(run: Path) -> dict[str, Any]:
    """The run's resolved training recipe."""
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The run's reports, oldest first; a last line cut short by a kill is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def pick(value: Any, key: str) -> Any:
    """The entry of nested dicts (or lists) at a dotted key.

    Raises:
        KeyError: there is none.
    """
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (TypeError, ValueError, IndexError) as error:
            raise KeyError(key) from error
    return value
