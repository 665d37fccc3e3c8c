"""What only a trained model can tell: how far int8 weights agree with it, and whether Jacobi decoding pays.

    python -m benchmarks.trained                      64 prompts; minutes
    python -m benchmarks.trained --quick              8 prompts
    python -m benchmarks.trained --json results.json  also what was measured

*Agreement*: pictures are drawn greedily and by chance with the checkpoint's weights in float32; then each code is asked
for again after all the codes before it (teacher-forced), and counted as agreed if the likeliest code is the same one.
*Jacobi*: the same requests by the engine and by `generate.jacobi`, by turns; codes accepted per pass, and seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import liquid_mm
from liquid_mm.generate.jacobi import Jacobi
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig

THINGS = "red apple,cat face,red heart,rocket,banana,dog face,sun,tree,car,cake,crown,fish,guitar,house,ghost,pizza"
PROMPTS = [f"a {thing}, {style}" for style in ("3D style", "Noto style") for thing in THINGS.split(",")]
KINDS = ("float32", "bfloat16", "int8")


def load(checkpoint: str, kind: str) -> LiquidModel:
    """The model in one of `KINDS`; int8 computes in bfloat16."""
    dtype = "float32" if kind == "float32" else "bfloat16"
    return liquid_mm.load(checkpoint, dtype=dtype, quantization="int8" if kind == "int8" else None)


def draw_requests(model: LiquidModel, count: int, top_k: int | None) -> list[Request]:
    """Unguided requests for `count` pictures."""
    sampling = SamplingConfig(temperature=1.0, top_k=top_k)
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    return [model.prompting.image(prompt, seed, sampling, None) for seed, prompt in enumerate(prompts)]


@torch.inference_mode()
def likeliest(model: LiquidModel, requests: list[Request], codes: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(pictures, codes): the code the model finds likeliest at each place, after the codes before it."""
    offset, number = model.vocabulary.code_offset, model.vocabulary.num_codes
    found = []
    for request, picture in zip(requests, codes, strict=True):
        ids = torch.tensor([[*request.prompt, *(picture.reshape(-1) + offset).tolist()]])
        logits = model.checkpoint.llm(ids).logits[0, len(request.prompt) - 1 : -1, offset : offset + number]
        found.append(logits.float().argmax(-1).numpy())
    return np.stack(found)


def agreement(checkpoint: str, count: int) -> dict[str, float]:
    """Share of places at which a kind of weights finds the code that float32 finds."""
    exact = load(checkpoint, "float32")
    requests = draw_requests(exact, count, 1) + draw_requests(exact, count, None)
    codes = [result.codes for result in exact.engine.run(requests)]
    expected = likeliest(exact, requests, codes)
    return {kind: float((likeliest(load(checkpoint, kind), requests, codes) == expected).mean()) for kind in KINDS[1:]}


def jacobi(checkpoint: str, dtype: str, count: int, windows: tuple[int, ...]) -> list[dict[str, Any]]:
    """A line per window: codes a pass accepts, seconds a picture, and the engine's, all medians by turns."""
    model = load(checkpoint, dtype)
    requests = draw_requests(model, count, 4096)
    lines = []
    for window in windows:
        drawer = Jacobi(model.checkpoint.llm, model.vocabulary, window)
        pairs, accepted = [], []
        for request in requests:
            start = time.perf_counter()
            drawn = drawer.draw(request)
            middle = time.perf_counter()
            model.engine.run([dataclasses.replace(request)])
            pairs.append((middle - start, time.perf_counter() - middle))
            accepted.append(drawn.codes.size / drawn.passes)
        mine, engine = (statistics.median(times) for times in zip(*pairs, strict=True))
        lines.append(
            {"window": window, "codes a pass": statistics.mean(accepted), "seconds": mine, "engine": engine,
             "ratio": engine / mine}
        )  # fmt: skip
        print(json.dumps(lines[-1]))
    return lines


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--quick", action="store_true", help="8 prompts")
    parser.add_argument(
        "--dtype", default="float32", choices=KINDS[:2], help="of Jacobi decoding and the engine beside it"
    )
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    options = parser.parse_args()
    count = 8 if options.quick else 64
    measured: dict[str, Any] = {"agreement with float32": agreement(options.checkpoint, count), "places": 128 * count}
    print(json.dumps(measured))
    measured["jacobi"] = jacobi(options.checkpoint, options.dtype, min(count, 16), (1, 2, 4, 8))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
