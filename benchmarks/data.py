"""How fast data is prepared: rows for training, codes of pictures, and what memory that takes.

    python -m benchmarks.data                        some minutes
    python -m benchmarks.data --quick                small counts, under a minute
    python -m benchmarks.data --trainer 450          also against the tokens/s that your training eats
    python -m benchmarks.data --sets data/pairs:0.96 data/text:0.04 --seq-len 512
                                                     loader and padding alone, on sets of yours with their weights
    python -m benchmarks.data --json results.json    also [{case, ours, baseline, ratio, unit}, …]

Sets are synthetic: captions, documents and conversations of random words, random codes, pictures of noise. The text
tokenizer is the demo's and so is the image tokenizer, unless --image-tokenizer names another.

    loader       tokens/s of one process without threads, on a mixed set at sequence 1024; and its padding
    tokenising   pictures/s of the stage against opening and encoding one picture at a time
    memory       peak of a process that tokenises many records (ours) against one with 1,000 (baseline)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.table import Row, Table, by_turns
from PIL import Image

from liquid_mm.checkpoint import load_checkpoint, load_image_tokenizer
from liquid_mm.data.config import MixtureConfig, SourceConfig
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.mixture import build_mixture
from liquid_mm.data.sources import START, pieces
from liquid_mm.data.tokenize import Stage, run, tokenize
from liquid_mm.errors import UserError
from liquid_mm.image import preprocess
from liquid_mm.image.tokenizer import ImageTokenizer
from liquid_mm.vocab.prompts import Renderer

SEQ_LEN, WINDOW, REPEATS, FEW = 1024, 16, 5, 1000
WORDS = [f"{a}{b}{c}" for a in ("gra", "lo", "ste", "mi") for b in ("n", "ba", "rel", "to") for c in ("t", "ing", "a")]


class RandomCodes:
    """An image tokenizer that costs nothing, for what is not about encoding."""

    codebook, fingerprint = torch.zeros(1, 1), "0" * 16

    def __init__(self, num_codes: int, downsampling: int, resolution: tuple[int, int]) -> None:
        self.num_codes, self.downsampling, self.resolution = num_codes, downsampling, resolution
        self._draw = np.random.default_rng(0)

    def encode(self, images: Sequence[Image.Image]) -> list[Any]:
        step = self.downsampling
        return [self._draw.integers(0, self.num_codes, (i.height // step, i.width // step)) for i in images]


def words(draw: random.Random, low: int, high: int) -> str:
    """Between `low` and `high` random words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def mixed_sets(folder: Path, encoder: Any, count: int) -> list[Path]:
    """`count` tokenised pairs, half as many conversations, and documents, some longer than a row."""
    draw = random.Random(0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    pairs = ({"image": noise, "text": words(draw, 3, 30)} for _ in range(count))
    texts = ({"text": words(draw, 20, draw.choice((100, 300, 3000)))} for _ in range(count // 10))
    turns = ("user", "assistant")
    chats = ({"messages": [{"role": role, "content": words(draw, 5, 60)} for role in turns]} for _ in range(count // 2))
    for name, records in (("pairs", pairs), ("text", texts), ("chat", chats)):
        tokenize(records, encoder, folder / name, batch_size=64)
    return [folder / "pairs", folder / "text", folder / "chat"]


def loader(sets: list[Path], renderer: Renderer, trainer: float | None) -> Iterator[Row]:
    """Tokens that one process prepares in reading every record once, and how much of the rows is padding."""
    sources = tuple(SourceConfig(path=path, epochs=1, weight=len(TokenizedSet(path))) for path in sets)
    mixture = build_mixture(MixtureConfig(sources=sources, seq_len=SEQ_LEN, batch_size=1, workers=0), renderer)
    tokens = places = 0
    start = time.perf_counter()
    with contextlib.suppress(UserError):  # says that all has been read
        for batch in mixture:
            tokens += int((batch["segment_ids"] > 0).sum())
            places += batch["segment_ids"].size
    speed = tokens / (time.perf_counter() - start)
    yield Row("loader, mixed set", speed, trainer, speed / trainer if trainer else None, "tokens/s")
    yield Row("padding, mixed set", 100 * (1 - tokens / places), None, None, "%")


def on_sets(sets: list[str], renderer: Renderer, seq_len: int) -> Iterator[Row]:
    """Loader and padding of `PATH:WEIGHT` sets: the first some 400,000 tokens, packed in small groups, and the next."""
    named = (text.rpartition(":") for text in sets)
    sources = tuple(SourceConfig(path=Path(path), weight=float(weight)) for path, _, weight in named)
    mixture = build_mixture(MixtureConfig(sources=sources, seq_len=seq_len, batch_size=8, workers=0), renderer)
    for span in ("first", "then"):
        start = time.perf_counter()
        batches = [next(mixture)["segment_ids"] > 0 for _ in range(400_000 // (8 * seq_len))]
        tokens = sum(int(real.sum()) for real in batches)
        yield Row(f"loader at {seq_len}, {span}", tokens / (time.perf_counter() - start), None, None, "tokens/s")
        empty = 100 * (1 - tokens / sum(real.size for real in batches))
        yield Row(f"padding at {seq_len}, {span}", empty, None, None, "%")


def pictures(folder: Path, count: int) -> Path:
    """A folder of captioned JPEG pictures of several shapes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        size = ((256, 256), (320, 240), (240, 320))[number % 3]
        coarse = Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg")
        (folder / f"{number:05}.txt").write_text("noise")
    return folder


def tokenising(source: Path, encoder: ImageTokenizer, repeats: int) -> Row:
    """The stage against one picture at a time."""
    files = sorted(source.glob("*.jpg"))
    stage = Stage(encoder, sizes=(), max_pixels=preprocess.MAX_PIXELS)

    def together() -> float:
        start = time.perf_counter()
        count = sum(1 for _ in run(pieces(source), START, stage, WINDOW))
        return count / (time.perf_counter() - start)

    def one_at_a_time() -> float:
        start = time.perf_counter()
        for file in files:
            picture = preprocess.flatten(preprocess.open_image(file))
            encoder.encode([preprocess.center_crop_resize(picture, encoder.resolution)])
        return len(files) / (time.perf_counter() - start)

    mine, theirs = by_turns(repeats, together, one_at_a_time)
    return Row(f"tokenising, {encoder.resolution[0]} pixels", mine, theirs, mine / theirs, "pictures/s")


def memory(folder: Path, many: int) -> Row:
    """Peak memory of tokenising `many` records against `FEW`, each in a process of its own."""
    picture = pictures(folder / "picture", 1) / "00000.jpg"
    peaks = []
    for count in (many, FEW):
        source = folder / f"{count}.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps({"image": str(picture), "text": f"caption {n}"}) + "\n" for n in range(count))
        command = [sys.executable, "-m", "benchmarks.data", "--peak-of", str(source)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    more, few = peaks
    return Row(f"memory, {many:,} records against {FEW:,}", more, few, few / more, "MiB")


def peak_of(source: Path) -> None:
    """Tokenise `source` and print this process's peak memory in MiB."""
    encoder: Any = RandomCodes(1024, 16, (256, 256))
    tokenize(source, encoder, source.with_suffix(""), batch_size=WINDOW)
    # Not getrusage, which on Linux begins with the peak of the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(peak) / 1024)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small counts, under a minute")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--trainer", type=float, help="tokens/s of a training, to compare the loader with")
    parser.add_argument("--image-tokenizer", "-t", type=Path, help="instead of the demo's")
    parser.add_argument("--sets", nargs="+", metavar="PATH:WEIGHT", help="loader and padding of these sets alone")
    parser.add_argument("--seq-len", type=int, default=SEQ_LEN, help="of --sets")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        return peak_of(options.peak_of)
    demo = load_checkpoint("demo", device="cpu")
    renderer = Renderer(demo.tokenizer, demo.vocabulary)
    encoder = load_image_tokenizer(options.image_tokenizer) if options.image_tokenizer else demo.image_tokenizer
    codes = RandomCodes(demo.vocabulary.num_codes, demo.vocabulary.downsampling, demo.vocabulary.resolution)
    records, count, repeats, many = (2000, 24, 2, 3 * FEW) if options.quick else (20_000, 240, REPEATS, 100 * FEW)
    if options.sets:
        table = Table(options.json)
        for row in on_sets(options.sets, renderer, options.seq_len):
            table.add(row)
        return
    table = Table(options.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in loader(mixed_sets(folder, codes, records), renderer, options.trainer):
            table.add(row)
        table.add(tokenising(pictures(folder / "pictures", count), encoder, repeats))
        table.add(memory(folder, many))


if __name__ == "__main__":
    main()
