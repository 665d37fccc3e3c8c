"""Run folders as a finished training leaves them, with losses that follow a known law."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from liquid_mm.scaling.fit import Law
from liquid_mm.scaling.folder import Parameters

CODES, TEXT_ROWS = 16, 48
ROWS = CODES + TEXT_ROWS
LAW = Law(floor=2.0, coefficients=(8.0, 60.0), exponents=(0.35, 0.5))
"""L(N, D) at sizes of a few hundred to a few ten thousand parameters and some thousand tokens."""

BATCH = 8
"""Reports of a run; each covers the same tokens."""

TRAINED = {"text": ("text",), "t2i": ("code",), "both": ("text", "code", "caption")}


def write_model(folder: Path, body: int, hidden: int = 4, tied: bool = True) -> Parameters:
    """The files of a checkpoint whose sizes are read: headers and the vocabulary."""
    folder.mkdir(parents=True)
    weights = {"model.embed_tokens.weight": np.zeros((ROWS, hidden), np.float16), "body": np.zeros(body, np.float16)}
    if not tied:
        weights["lm_head.weight"] = np.ones((ROWS, hidden), np.float16)
    save_file(weights, folder / "model.safetensors")
    vocabulary = {"code_offset": TEXT_ROWS, "num_codes": CODES}
    (folder / "liquid.json").write_text(json.dumps({"vocabulary": vocabulary}))
    return Parameters(body, ROWS * hidden)


def write_run(
    study: Path,
    *,
    size: str,
    body: int,
    mix: str = "both",
    length: float = 1.0,
    seed: int = 0,
    tokens: int = 8000,
    noise: float = 0.0,
    cost: float = 0.0,
    start: str = "random",
    family: str = "shape",
    factor: float = 1.0,
    scale: float = 1.0,
    score: float | None = None,
) -> Path:
    """One finished run.

    Args:
        study: folder of the study.
        size, mix, length, seed, start, family: of its cell.
        body: parameters outside the embedding.
        tokens: read in all.
        noise: standard deviation of log losses.
        cost: added to every loss.
        factor: tokens count as that many for the losses (a start that is ahead).
        scale: of the losses.
        score: an image score, or None.
    """
    rng = np.random.default_rng([seed, body, round(100 * length), sum(map(ord, mix))])
    run = study / f"{size}_{mix}_x{length:g}_s{seed}"
    write_model(run / "final", body)
    where = {"file": "eval/results.json", "key": "fid.value", "higher_is_better": False}
    cell = {"size": size, "mix": mix, "length": length, "seed": seed, "start": start, "family": family}
    (run / "cell.json").write_text(json.dumps({**cell, "score": where if score else None, "failure": None}))
    (run / "config.yaml").write_text(f"steps: {BATCH}\n")
    lines = []
    for step in range(1, BATCH + 1):
        seen = tokens * step // BATCH
        loss = scale * (LAW([[body, seen * factor]])[0] + cost) * np.exp(noise * rng.standard_normal())
        values = {f"{name}/{what}": v for name in TRAINED.get(mix, ("code", "caption")) for what, v in
                  (("loss", loss), ("accuracy", 1 / loss))}  # fmt: skip
        train = {"step": step, "kind": "train", "loss": loss, **values, "tokens": seen, "tokens_per_second": 1000.0}
        lines += [train, {"step": step, "kind": "validation", "loss": loss, **values}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if score is not None:
        (run / "eval").mkdir()
        (run / "eval" / "results.json").write_text(json.dumps({"fid": {"value": score}}))
    return run
