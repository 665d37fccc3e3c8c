"""Pictures and bodies damaged at random: none may make the server fail, and a refusal has to say why.

    python -m benchmarks.serving_mutations                      2,000 requests to the demo model
    python -m benchmarks.serving_mutations --quick              100
    python -m benchmarks.serving_mutations --json results.json  also what was found

Half are pictures (PNG, JPEG, WebP, GIF with bytes changed, cut, doubled, or a header that promises more than there is),
half are bodies (JSON with values of another type, absurd numbers, missing and foreign keys, or broken text). An answer
is right if it is 2xx, or 4xx with an error in OpenAI's shape that has a message. At the end a good request must be
answered as it was before.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.serving import PATIENCE, Server, essence
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 2**63, -0.0, "", "\x00", "NaN", "a" * 5000, "💧" * 99,
    [], [None], [[]], {}, {"a": {"b": []}},
)  # fmt: skip
GOOD = ("images/generations", {"prompt": "a red apple", "seed": 7})
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("images/generations", {"prompt": "a", "n": 1, "size": "64x64", "seed": 1, "guidance_scale": 1}),
    ("completions", {"prompt": "a", "max_tokens": 1, "temperature": 1, "top_p": 0.9, "stop": ["b"], "n": 1}),
    ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "seed": 1, "stream": False}),
)


def encoded(draw: random.Random) -> tuple[str, bytes]:
    """A sound picture in one of `FORMATS`."""
    kind = draw.choice(FORMATS)
    file = io.BytesIO()
    Image.effect_mandelbrot((48, 32), (-2, -1.5, 1, 1.5), 20).convert("RGB").save(file, kind)
    return kind.lower(), file.getvalue()


def damaged(data: bytes, draw: random.Random) -> bytes:
    """`data` with bytes changed, cut, doubled or put in."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = draw.randrange(max(1, len(found)))
        match draw.randrange(5):
            case 0:
                found[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del found[at:]
            case 2:
                found[at:at] = found[at : at + draw.randrange(1, 40)]
            case 3:
                found[at:at] = draw.randbytes(draw.randrange(1, 40))
            case 4:  # lengths and sizes stand near the front
                front = draw.randrange(min(32, max(1, len(found))))
                found[front : front + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
    return bytes(found)


def picture_request(draw: random.Random) -> tuple[str, bytes, str]:
    """A question about a damaged picture: path, body, content type."""
    kind, data = encoded(draw)
    url = f"data:image/{kind};base64," + base64.b64encode(damaged(data, draw)).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    return "chat/completions", json.dumps(body).encode(), "application/json"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside `value`."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def body_request(draw: random.Random) -> tuple[str, bytes, str]:
    """A damaged body: path, body, content type."""
    path, body = draw.choice(BODIES)
    body = copy.deepcopy(body)
    for _ in range(draw.choice((1, 1, 2))):
        where = draw.choice(places(body) or [("prompt",)])
        inner: Any = body
        for key in where[:-1]:
            inner = inner[key]
        match draw.randrange(3):
            case 0 if isinstance(inner, dict):
                inner.pop(where[-1], None)
            case 1 if isinstance(inner, dict):
                inner["foreign"] = copy.deepcopy(draw.choice(STRANGE))
            case _:
                inner[where[-1]] = copy.deepcopy(draw.choice(STRANGE))
    data = json.dumps(body).encode()
    if draw.random() < 0.25:
        data = damaged(data, draw)
    return path, data, draw.choice(("application/json", "application/json", "text/plain"))


def verdict(answer: httpx2.Response) -> str:
    """What became of a request: accepted, refused, or what was wrong with the answer."""
    if answer.status_code < 300:
        return "accepted"
    if answer.status_code >= 500:
        return "server error"
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "refused without a reason"
    return "refused" if isinstance(message, str) and message.strip() else "refused without a reason"


def measure(server: Server, number: int) -> dict[str, Any]:
    """Counts by kind of request and verdict, and the requests that were answered wrongly."""
    counts: dict[str, Counter[str]] = {"pictures": Counter(), "bodies": Counter()}
    wrong = []
    with httpx2.Client(base_url=server.url, timeout=PATIENCE) as http:

        def good() -> Any:
            return essence(http.post(GOOD[0], json=GOOD[1]).raise_for_status().json())

        before = good()
        for seed in range(number):
            draw = random.Random(seed)
            kind = ("pictures", "bodies")[seed % 2]
            path, body, content_type = (picture_request if kind == "pictures" else body_request)(draw)
            answer = http.post(path, content=body, headers={"content-type": content_type})
            found = verdict(answer)
            counts[kind][found] += 1
            if found not in ("accepted", "refused"):
                wrong.append({"seed": seed, "path": path, "status": answer.status_code, "answer": answer.text[:300]})
        same = good() == before
    return {
        "requests": number,
        **{kind: dict(found) for kind, found in counts.items()},
        "wrong": wrong,
        "the same answer afterwards": same,
        "errors_in_log": len(server.errors),
    }


def main() -> None:
    """Send, print, write JSON; exit code 1 if anything was answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="100 requests")
    parser.add_argument("--json", type=Path, help="also write what was found here")
    parser.add_argument("serve_options", nargs="*", help="passed on to `liquid serve`, after --")
    options = parser.parse_args()
    server = Server(options.checkpoint, options.serve_options)
    try:
        found = measure(server, 100 if options.quick else options.requests)
    finally:
        server.stop()
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["wrong"]) or not found["the same answer afterwards"] or bool(found["errors_in_log"]))


if __name__ == "__main__":
    main()
