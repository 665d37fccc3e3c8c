"""A server under load: lost or wrong answers, latency, memory, and what requests at once gain over one after another.

    python -m benchmarks.serving                      32 clients for 10 minutes on the demo model
    python -m benchmarks.serving --quick              8 clients for 40 seconds
    python -m benchmarks.serving --json results.json  also what was measured

A server is started on a free port of this machine alone. Of the requests 10 % are dropped by their client once they are
under way and 5 % are bad; the rest ask for what was asked before anybody else was there, and must get the same answer.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import io
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

VANISH, BAD = 0.10, 0.05
PATIENCE = 300.0
"""Seconds a client waits; one that waited in vain has lost its answer."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request whose answer is known, or that must be refused."""

    path: str
    body: dict[str, Any]


def photo() -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def good() -> list[Ask]:
    """What clients ask: half pictures, half text."""
    part = {"type": "image_url", "image_url": {"url": photo()}}
    question = [part, {"type": "text", "text": "What is this?"}]
    draw = [{"prompt": f"a {thing}", "seed": 7, "guidance_scale": 3} for thing in ("red apple", "cat face", "house")]
    return [
        *(Ask("images/generations", body) for body in draw),
        Ask("completions", {"prompt": "Once upon a time", "max_tokens": 48, "seed": 1}),
        Ask("chat/completions", {"messages": [{"role": "user", "content": question}], "max_tokens": 32, "seed": 2}),
        Ask(
            "chat/completions",
            {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 32, "seed": 3},
        ),
    ]


def bad() -> list[Ask]:
    """What has to be refused with a word: 400."""
    broken = {"type": "image_url", "image_url": {"url": photo()[:-400]}}
    return [
        Ask("images/generations", {"prompt": "a", "size": "1x1"}),
        Ask("images/generations", {"prompt": "a", "n": -1}),
        Ask("completions", {"prompt": "a" * 200_000}),
        Ask("chat/completions", {"messages": [{"role": "user", "content": [broken]}]}),
        Ask("chat/completions", {"messages": "hello"}),
    ]


def essence(answer: dict[str, Any]) -> Any:
    """What of an answer its seed decides."""
    if "data" in answer:
        return [image["b64_json"] for image in answer["data"]]
    return [choice.get("text") or choice.get("message") for choice in answer["choices"]]


class Server:
    """`liquid serve` as a process of its own, and its memory every second."""

    def __init__(self, checkpoint: str, options: list[str]) -> None:
        command = [sys.executable, "-m", "liquid_mm.cli", "serve", checkpoint, "--port", "0", "--no-page", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr
        for line in self._process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0] + "/v1/"
                break
        else:
            raise RuntimeError("the server did not start")
        self.errors: list[str] = []
        self.memory: list[tuple[float, float]] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            if '"level": "error"' in line or '"level": "critical"' in line or not line.startswith("{"):
                self.errors.append(line)

    def _watch(self) -> None:
        page = 4096 / 2**20
        while self._process.poll() is None:
            resident = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            self.memory.append((time.monotonic(), resident * page))
            time.sleep(1)

    def stop(self) -> None:
        """Tell it to stop and wait."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(120)


class Load:
    """Clients that ask until time is up.

    Attributes:
        counts: answers by what became of them: right, wrong, lost, refused, vanished, "bad let in".
        wrong: answers other than the known one, by path.
        seconds: until an answer came, by path.
    """

    def __init__(self, url: str, known: list[tuple[Ask, Any]]) -> None:
        self._url, self._known = url, known
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {}

    def client(self, number: int, until: float) -> None:
        """One of them."""
        draw = random.Random(number)
        with httpx2.Client(base_url=self._url, timeout=PATIENCE) as http:
            while time.monotonic() < until:
                chance = draw.random()
                if chance < VANISH:
                    self._vanish(http, draw)
                elif chance < VANISH + BAD:
                    ask = draw.choice(bad())
                    status = http.post(ask.path, json=ask.body).status_code
                    self.counts["refused" if status == 400 else "bad let in"] += 1
                else:
                    self._ask(http, *draw.choice(self._known))

    def _ask(self, http: httpx2.Client, ask: Ask, expected: Any) -> None:
        start = time.monotonic()
        try:
            answer = http.post(ask.path, json=ask.body)
            while answer.status_code == 429:  # was not accepted: it comes again
                self.counts["sent away"] += 1
                time.sleep(float(answer.headers["retry-after"]))
                start = time.monotonic()
                answer = http.post(ask.path, json=ask.body)
            right = answer.status_code == 200 and essence(answer.json()) == expected
        except httpx2.HTTPError:
            self.counts["lost"] += 1
            return
        self.counts["right" if right else "wrong" if answer.status_code == 200 else "lost"] += 1
        self.wrong[ask.path] += answer.status_code == 200 and not right
        self.seconds.setdefault(ask.path, []).append(time.monotonic() - start)

    def _vanish(self, http: httpx2.Client, draw: random.Random) -> None:
        ask, _ = draw.choice(self._known)
        with contextlib.suppress(httpx2.TimeoutException):
            http.post(ask.path, json=ask.body, timeout=draw.uniform(0.05, 1.0))
        self.counts["vanished"] += 1


def gain(url: str, ask: Ask, number: int) -> tuple[float, float]:
    """Seconds that `number` of the same request take one after another, and at once."""

    def one(_: int) -> None:
        httpx2.post(url + ask.path, json=ask.body, timeout=PATIENCE).raise_for_status()

    took = []
    for workers in (1, number):
        start = time.monotonic()
        with ThreadPoolExecutor(workers) as clients:
            list(clients.map(one, range(number)))
        took.append(time.monotonic() - start)
    return took[0], took[1]


def percentile(values: list[float], part: float) -> float:
    """Of the sorted values the one with that part of them below it."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def measure(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Everything, as a dictionary."""
    known = []
    for ask in good():
        answer = httpx2.post(server.url + ask.path, json=ask.body, timeout=PATIENCE)
        known.append((ask, essence(answer.raise_for_status().json())))
    in_turn, at_once = gain(server.url, good()[0], 8)
    load = Load(server.url, known)
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda number: load.client(number, start + seconds), range(clients)))
    took = time.monotonic() - start
    settled = [size for moment, size in server.memory if moment > start + min(60.0, seconds / 2)]
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "counts": dict(load.counts),
        "wrong": dict(load.wrong),
        "latency": {
            path: {
                "p50": round(statistics.median(values), 2),
                "p95": round(percentile(values, 0.95), 2),
                "n": len(values),
            }
            for path, values in sorted(load.seconds.items())
        },
        "memory_mib": {"first": round(settled[0]), "most": round(max(settled)), "last": round(settled[-1])},
        "eight_pictures": {"in_turn": round(in_turn, 2), "at_once": round(at_once, 2)},
        "errors_in_log": len(server.errors),
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--quick", action="store_true", help="8 clients, 40 seconds")
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    parser.add_argument("serve_options", nargs="*", help="passed on to `liquid serve`, after --")
    options = parser.parse_args()
    clients, seconds = (8, 40.0) if options.quick else (options.clients, options.seconds)
    server = Server(options.checkpoint, options.serve_options)
    try:
        measured = measure(server, clients, seconds)
    finally:
        server.stop()
    print(json.dumps(measured, indent=2))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")
    counts = measured["counts"]
    sys.exit(any(counts.get(kind) for kind in ("wrong", "lost", "bad let in")))


if __name__ == "__main__":
    main()
