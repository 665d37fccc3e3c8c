"""What a run reports: sums per modality, kept on the device until they are read, and where the numbers go.

Each report is a line of `metrics.jsonl` and a point on TensorBoard's curves:

    {"step": 10, "kind": "train", "loss": 5.1, "code/loss": 6.2, "code/accuracy": 0.03, …}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file
from liquid_mm.train.loss import TokenStats

MODALITIES = ("none", "text", "code", "caption")
"""Names of the numbers in a batch's `modality`."""


class Meter:
    """Sums of token statistics by modality; reading divides them.

    `sums` has shape (4, 4): modality × (count, loss, correct, logsumexp), on the device.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64
        self.sums = torch.zeros(len(MODALITIES), 4, dtype=dtype, device=device)

    def add(self, stats: TokenStats, modality: Tensor) -> None:
        """Add N positions' `stats`; `modality` is (N,) int64."""
        columns = torch.stack((torch.ones_like(stats.loss), *stats), 1).to(self.sums.dtype)
        self.sums.index_add_(0, modality, columns)

    def reset(self) -> None:
        """Start again from nothing."""
        self.sums.zero_()

    @staticmethod
    def read(sums: Tensor) -> dict[str, float]:
        """Means over all positions (`loss`, `accuracy`, `logsumexp`) and over each modality that occurred."""
        rows = {"": sums.sum(0), **{f"{name}/": row for name, row in zip(MODALITIES, sums, strict=True)}}
        values: dict[str, float] = {}
        for prefix, row in rows.items():
            count, *totals = row.tolist()
            if count:
                names = ("loss", "accuracy", "logsumexp")
                values |= {f"{prefix}{name}": total / count for name, total in zip(names, totals, strict=True)}
        return values


class Recorder:
    """Appends reports to `metrics.jsonl` and TensorBoard; a resumed run drops what came after its checkpoint.

    Args:
        run: run folder.
        step: reports of later steps are removed (0: all).
    """

    def __init__(self, run: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("training needs TensorBoard: pip install 'liquid-mm[train]'.") from error
        path = run / "metrics.jsonl"
        lines = read_metrics(path) if path.exists() else []
        with atomic_file(path) as part:
            part.write_text("".join(_line(line) for line in lines if line["step"] <= step), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def report(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Record `values` measured after `step` steps, as `kind` "train" or "validation"."""
        self._file.write(_line({"step": step, "kind": kind, **values}))
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self._board.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The reports in a `metrics.jsonl`; a last line cut short by a kill is left out."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is incomplete
    return [json.loads(line) for line in lines]


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"
