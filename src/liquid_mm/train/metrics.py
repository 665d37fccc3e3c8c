"""What a run reports: sums per modality, kept on the device until they are read, and where the numbers go.

Each report is a line of `metrics.jsonl`, and goes to the trackers of the recipe:

    {"step": 10, "kind": "train", "loss": 5.1, "code/loss": 6.2, "code/accuracy": 0.03, …}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liquid_mm.files import atomic_file
from liquid_mm.train.config import LossWeights
from liquid_mm.train.loss import TokenStats
from liquid_mm.vocab.vocabulary import Vocabulary

MODALITIES = ("none", "text", "code", "caption")
"""Names of the numbers in a batch's `modality`."""


def modality_weights(weights: LossWeights, device: torch.device) -> Tensor | None:
    """What a target of each modality counts in the loss, (4,) float32; None: all the same."""
    given = weights.model_dump()
    if set(given.values()) == {1.0}:
        return None
    return torch.tensor([given.get(name, 0.0) for name in MODALITIES], device=device)


class Meter:
    """Sums of token statistics; reading divides them.

    `sums` (4, 4) holds modality × (count, loss, correct, logsumexp), `codes` (C,) how often each image code was the
    likeliest id where a code was to be predicted. Both are on the device.
    """

    def __init__(self, device: torch.device, vocabulary: Vocabulary) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64
        self.sums = torch.zeros(len(MODALITIES), 4, dtype=dtype, device=device)
        self.codes = torch.zeros(vocabulary.num_codes, dtype=dtype, device=device)
        self._offset = vocabulary.code_offset

    def add(self, stats: TokenStats, targets: Tensor, modality: Tensor) -> None:
        """Add N positions' `stats`; `targets` and `modality` are (N,) int64."""
        right = (stats.top == targets).float()
        columns = torch.stack((torch.ones_like(right), stats.loss, right, stats.logsumexp), 1)
        self.sums.index_add_(0, modality, columns.to(self.sums.dtype))
        # Weighting instead of selecting keeps the shape, hence needs no answer from the device.
        code = stats.top - self._offset
        counts = (code >= 0) & (code < len(self.codes)) & (modality == MODALITIES.index("code"))
        self.codes.index_add_(0, code.clamp(0, len(self.codes) - 1), counts.to(self.codes.dtype))

    def reset(self) -> None:
        """Start again from nothing."""
        self.sums.zero_()
        self.codes.zero_()

    @staticmethod
    def read(sums: Tensor, codes: Tensor) -> dict[str, float]:
        """What `sums` and `codes`, of one process or added up over several, say.

        Returns:
            Means over all positions (`loss`, `accuracy`, `logsumexp`) and over each modality that occurred;
            `code/used`, the share of codes that were predicted, and `code/perplexity`, how many evenly used ones
            that is worth.
        """
        rows = {"": sums.sum(0), **{f"{name}/": row for name, row in zip(MODALITIES, sums, strict=True)}}
        values: dict[str, float] = {}
        for prefix, row in rows.items():
            count, *totals = row.tolist()
            if count:
                names = ("loss", "accuracy", "logsumexp")
                values |= {f"{prefix}{name}": total / count for name, total in zip(names, totals, strict=True)}
        if "code/loss" in values:
            values["code/used"] = float((codes > 0).float().mean())
        if codes.any():
            values["code/perplexity"] = float(torch.special.entr(codes / codes.sum()).sum().exp())
        return values


class Recorder:
    """Appends reports to `metrics.jsonl` and sends them to trackers; on resuming, those after the checkpoint go.

    Args:
        run: run folder.
        step: reports of later steps are removed (0: all).
        trackers: accelerate's, started (`engine.open_trackers`).
    """

    def __init__(self, run: Path, step: int, trackers: Sequence[Any] = ()) -> None:
        path = run / "metrics.jsonl"
        lines = read_metrics(path) if path.exists() else []
        with atomic_file(path) as part:
            part.write_text("".join(_line(line) for line in lines if line["step"] <= step), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def report(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Record `values` measured after `step` steps, as `kind` "train", "validation" or "bad"."""
        # JSON has no infinity, and trackers draw none.
        values = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}
        self._file.write(_line({"step": step, "kind": kind, **values}))
        self._file.flush()
        for tracker in self._trackers:
            numbers = {f"{kind}/{name}": value for name, value in values.items() if value is not None}
            tracker.log(numbers, step=step)

    def samples(self, step: int, folder: Path) -> None:
        """Send what the sampling hook wrote into `folder` to the trackers that show pictures."""
        for tracker in self._trackers:
            if not hasattr(tracker, "log_images"):
                continue
            for path in sorted(folder.glob("*.png")):
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))[None]
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({f"samples/{path.stem}": pixels}, step=step, **options)
            for path in sorted(folder.glob("*.txt")):
                tracker.log({f"samples/{path.stem}": path.read_text(encoding="utf-8")}, step=step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The reports in a `metrics.jsonl`; a last line cut short by a kill is left out."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is incomplete
    return [json.loads(line) for line in lines]


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"
