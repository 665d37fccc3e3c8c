"""Training measured against the way the release trains: rows padded to the longest, every logit in memory.

    python -m benchmarks.training                  everything; minutes on a CPU
    python -m benchmarks.training --quick          small sizes, to see that it runs
    python -m benchmarks.training --json OUT.json  also [{case, ours, baseline, ratio, unit, floor_fraction}, …]
    python -m benchmarks.training --only speed     one case; --rounds N measures each way so often

Cases:
    speed     useful tokens a second (padding not counted) of full training, texts and pairs as they come
    feeding   tokens a second of one worker of the loader against those of training, and waits for batches
    memory    peak memory of a step with a large vocabulary
    loss      the loss alone, forward and backward: ours, torch's `linear_cross_entropy`, Liger's where there is a GPU

Ways are measured in turn within one process, and the median of each is reported; the memory case starts a process for
each way, since a peak cannot be taken back. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.data import RandomCodes, mixed_sets
from benchmarks.table import Row, Table
from benchmarks.training_ways import DEVICE, Ours, Release, make, mix

from liquid_mm.checkpoint import load_checkpoint
from liquid_mm.data.config import MixtureConfig, SourceConfig
from liquid_mm.data.mixture import build_mixture
from liquid_mm.train.flops import peak_flops
from liquid_mm.train.loss import Head, fused_loss
from liquid_mm.vocab.prompts import Renderer

SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip
GEMMA2_2B = {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
             "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}  # fmt: skip
QUICK = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}  # fmt: skip
NARROW = SMOLLM2 | {"num_hidden_layers": 2}
"""For the memory case: a body so small that the vocabulary decides."""


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    wait()
    since = time.perf_counter()
    yield
    wait()
    into.append(time.perf_counter() - since)


def speed(shape: dict[str, Any], vocabulary: int, seq_len: int, count: int, rounds: int) -> Iterator[Row]:
    """Useful tokens a second of both ways, in turn on the same documents."""
    release, ours = Release(make(shape, vocabulary)), Ours(make(shape, vocabulary), seq_len)
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {"release": [], "ours": []}
    mfu = []
    for number in range(rounds + 1):
        documents = mix(rng, vocabulary, seq_len, count)
        useful = sum(map(len, documents))
        for name, way in (("release", release), ("ours", ours)):
            taken: list[float] = []
            with timed(taken):
                flops = way.step(documents)  # None: not ours
            if number:  # the first round warms up
                rates[name].append(useful / taken[0])
                if flops and (peak := peak_flops(DEVICE)):
                    mfu.append(100 * flops / taken[0] / peak)
    mine, theirs = (statistics.median(rates[name]) for name in ("ours", "release"))
    yield Row(f"useful tokens at {seq_len}, {count} documents a step", mine, theirs, mine / theirs, "tokens/s")
    if mfu:
        yield Row("model FLOPs of the device's peak", statistics.median(mfu), None, None, "%")


def feeding(shape: dict[str, Any], seq_len: int, steps: int) -> Iterator[Row]:
    """What one worker of the loader prepares against what training eats, and how long steps wait for their batches."""
    demo = load_checkpoint("demo", device="cpu")
    renderer, vocabulary = Renderer(demo.tokenizer, demo.vocabulary), demo.vocabulary
    codes = RandomCodes(vocabulary.num_codes, vocabulary.downsampling, vocabulary.resolution)
    trainer = Ours(make(shape, vocabulary.size), seq_len)
    with tempfile.TemporaryDirectory() as folder:
        sources = tuple(SourceConfig(path=path) for path in mixed_sets(Path(folder), codes, 2000))
        data = MixtureConfig(sources=sources, seq_len=seq_len, batch_size=1)
        alone = build_mixture(data.model_copy(update={"workers": 0}), renderer)
        next(alone)  # warms up
        prepared = 0
        start = time.perf_counter()
        for _ in range(200):
            prepared += int((next(alone)["segment_ids"] > 0).sum())
        loader = prepared / (time.perf_counter() - start)
        mixture = build_mixture(data, renderer)
        waits: list[float] = []
        whole: list[float] = []
        eaten = 0
        for _ in range(steps + 1):
            with timed(whole):
                with timed(waits):
                    batch = next(mixture)
                trainer.take(batch)
            eaten += int((batch["segment_ids"] > 0).sum()) if len(whole) > 1 else 0
        eats = eaten / sum(whole[1:])
    yield Row("loader, one worker, against training", loader, eats, loader / eats, "tokens/s")
    longest, step = 1000 * max(waits[1:]), 1000 * statistics.median(whole[1:])
    yield Row("longest wait for a batch, of a step", longest, step, None, "ms")


def memory(way: str, shape: dict[str, Any], vocabulary: int, rows: int, seq_len: int) -> float:
    """MiB that a step of one way takes at its peak beyond weights and optimiser; for a process of its own."""
    llm = make(shape, vocabulary)
    trainer = Release(llm) if way == "release" else Ours(llm, seq_len)
    rng = np.random.default_rng(0)
    # One short step makes gradients and moments exist.
    trainer.step([rng.integers(10, vocabulary, 8)])
    before = _peak(reset=True)
    trainer.step([rng.integers(10, vocabulary, seq_len) for _ in range(rows)])
    return _peak() - before


def _peak(reset: bool = False) -> float:
    """MiB taken at most since the last reset; without a GPU, of a process as Linux counts it."""
    if DEVICE.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        # What malloc keeps of freed memory goes back first: taken again, it would not count.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10


def loss(vocabulary: int, hidden: int, count: int, rounds: int) -> Iterator[Row]:
    """Milliseconds of our way and of each other to the loss of `count` positions and its gradients."""
    torch.manual_seed(0)
    states = torch.randn(count, hidden, device=DEVICE, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocabulary, hidden, device=DEVICE) * 0.02)
    targets = torch.randint(0, vocabulary, (count,), device=DEVICE)
    ways: dict[str, Callable[[], Any]] = {
        "all logits": lambda: F.cross_entropy(F.linear(states, weight).float(), targets, reduction="sum"),
        "ours": lambda: fused_loss(states, Head(weight), targets)[0],
    }
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        ways["torch's linear_cross_entropy"] = lambda: F.linear_cross_entropy(
            states, weight, targets, reduction="sum", options=options
        )
    if DEVICE.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        ways["Liger"] = lambda: liger(weight, states, targets)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            with timed(times[name]):
                way().backward()
            states.grad = weight.grad = None
    medians = {name: 1000 * statistics.median(values[1:]) for name, values in times.items()}
    mine = medians.pop("ours")
    for name, theirs in medians.items():
        yield Row(f"loss of {count} x {vocabulary:,} against {name}", mine, theirs, theirs / mine, "ms")


def peaks(quick: bool, rows: int, seq_len: int, vocabulary: int, **_: Any) -> Iterator[Row]:
    """The memory case: each way in a process of its own."""
    options = ["--quick"] if quick else ["--rows", str(rows)]
    command = [sys.executable, "-m", "benchmarks.training", *options, "--memory-of"]
    release, mine = (float(subprocess.check_output([*command, way]).split()[-1]) for way in ("release", "ours"))
    yield Row(f"peak of a step, {rows} x {seq_len}, {vocabulary:,} entries", mine, release, release / mine, "MiB")


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", choices=("speed", "feeding", "memory", "loss"), help="this case alone")
    parser.add_argument("--rounds", type=int, help="how often each way is measured")
    parser.add_argument("--rows", type=int, help="of 2048 tokens, in the memory case")
    parser.add_argument("--memory-of", choices=("release", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        sizes: dict[str, Any] = {"shape": QUICK, "vocabulary": 4096, "seq_len": 128, "count": 8, "rounds": 3}
        large: dict[str, Any] = {"shape": QUICK, "vocabulary": 32768, "rows": 2, "seq_len": 256}
        head = {"vocabulary": 4096, "hidden": 64, "count": 512, "rounds": 3}
    else:
        on_gpu = DEVICE.type == "cuda"
        # With eight documents at once the two models, their moments and all logits of the release's way took 20 GB.
        sizes = {"shape": SMOLLM2, "vocabulary": 50176, "seq_len": 1024, "count": 16, "rounds": 5}
        if on_gpu:
            sizes = {"shape": GEMMA2_2B, "vocabulary": 264192, "seq_len": 2048, "count": 64, "rounds": 10}
        # All logits of 4 x 2048 tokens take 22 GB with their gradients: more than a laptop has.
        rows = options.rows or (4 if on_gpu else 1)
        large = {"shape": NARROW, "vocabulary": 264192, "rows": rows, "seq_len": 2048}
        head = {"vocabulary": 50176, "hidden": 576, "count": 2048, "rounds": 5}
    if options.memory_of:
        print(memory(options.memory_of, **large))
        return
    if options.rounds:
        sizes["rounds"] = head["rounds"] = options.rounds
    cases: dict[str, Callable[[], Iterator[Row]]] = {
        "speed": lambda: speed(**sizes),
        "feeding": lambda: feeding(sizes["shape"], sizes["seq_len"], 4 * sizes["rounds"]),
        "memory": lambda: peaks(options.quick, **large),
        "loss": lambda: loss(**head),
    }
    print(f"{DEVICE.type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    table = Table(options.json)
    for case in (options.only,) if options.only else tuple(cases):
        for row in cases[case]():
            table.add(row)


if __name__ == "__main__":
    main()
