"""What HTTP adds: the same pictures and texts by the engine alone and by a request, by turns, in one process.

    python -m benchmarks.serving_overhead                      one picture, and 48 tokens of text, 20 times each
    python -m benchmarks.serving_overhead --quick              5 times each
    python -m benchmarks.serving_overhead --json results.json  also what was measured

Both ways run on one engine. The request's way includes parsing, the queue, PNG and base64, and a client on loopback.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

import liquid_mm
from liquid_mm.device import end_helpers
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.serve.app import create_app
from liquid_mm.vocab.records import Text

PROMPT, STORY, TOKENS = "a red apple, 3D style", "Once upon a time", 48


def listen(app: Any) -> tuple[uvicorn.Server, str]:
    """The application on a free port, served by a thread, and its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    return server, f"http://127.0.0.1:{port}/v1/"


def seconds(work: Callable[[], object]) -> float:
    """That it takes."""
    start = time.perf_counter()
    work()
    passed = time.perf_counter() - start
    end_helpers()  # of this thread, or the engine's would be slow
    return passed


def measure(checkpoint: str, dtype: str | None, turns: int) -> list[dict[str, Any]]:
    """A line per case: medians in milliseconds, and the median of the turns' differences as a share of the engine's."""
    model = liquid_mm.load(checkpoint, dtype=dtype)
    server, url = listen(create_app(model, page=False))
    http = httpx2.Client(base_url=url, timeout=300)

    def post(path: str, **body: Any) -> None:
        http.post(path, json=body).raise_for_status()

    # The same thread computes both: the server's.
    sampling = SamplingConfig(temperature=0.99, top_k=4096, top_p=0.96)
    ((_, drawing),) = model.prompting.images([PROMPT], 1, 1, sampling, None, None)
    writing = model.prompting.text(Text(STORY), 1, SamplingConfig(1.0, None, 1.0), TOKENS)

    def draw() -> None:
        model.decode_images([model.engine.submit(drawing).result().codes])

    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "one picture": (
            draw,
            lambda: post("images/generations", prompt=PROMPT, seed=1),
        ),
        f"{TOKENS} tokens of text": (
            lambda: model.engine.submit(writing).result(),
            lambda: post("completions", prompt=STORY, max_tokens=TOKENS, seed=1, temperature=1.0, top_p=1.0),
        ),
    }
    found = []
    for case, (engine, request) in cases.items():
        engine(), request()
        pairs = [(seconds(engine), seconds(request)) for _ in range(turns)]
        alone = statistics.median(first for first, _ in pairs)
        added = statistics.median(second - first for first, second in pairs)
        asked = statistics.median(second for _, second in pairs)
        line = {"case": case, "engine": 1e3 * alone, "request": 1e3 * asked, "overhead": added / alone, "turns": turns}
        found.append(line)
        print(f"{case:>22}: engine {1e3 * alone:7.1f} ms, by a request {1e3 * asked:7.1f} ms, {added / alone:+.1%}")
    http.close()
    server.should_exit = True
    return found


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--dtype", help="as `liquid serve --dtype`")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 turns")
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    options = parser.parse_args()
    measured = measure(options.checkpoint, options.dtype, 5 if options.quick else options.turns)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
