"""How fast pictures are drawn: the engine against the released algorithm and against the memory's bandwidth.

    python -m benchmarks.generation                      every case for this machine; minutes to an hour
    python -m benchmarks.generation --quick              one case, under a minute
    python -m benchmarks.generation --json results.json  also [{case, ours, baseline, ratio, floor_fraction, unit}, …]

Weights are random: speed does not depend on them. Both sides draw the same guided pictures of random prompts in one
process by turns, A B A B …, and the median counts. The engine is as `liquid_mm.load` and a long run make it: on a CPU
with packed weights and compiled layers (the time that takes is printed). The floor is the bytes of weights that one
step has to read, divided by the bandwidth that a large copy reaches; a step cannot be faster unless it is cached or
does more than one code.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.table import Row, Table, by_turns
from transformers import AutoModelForCausalLM, DynamicCache, Gemma3TextConfig, GemmaConfig, LlamaConfig

from liquid_mm.device import quantization_config
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.grammar import ImageTask
from liquid_mm.generate.packed import pack
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary

CODES = 8192
GRID = (32, 32)
SAMPLING = SamplingConfig(temperature=0.99, top_k=4096, top_p=0.96, guidance_scale=7.0)
PROMPT = 24
"""Ids of a prompt; the unconditional one has three."""

SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": lambda: LlamaConfig(
        vocab_size=512 + CODES, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    ),
    "smollm2-135m": lambda: LlamaConfig(
        vocab_size=49152 + CODES,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "gemma3-270m": lambda: Gemma3TextConfig(
        vocab_size=262144 + CODES,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
        max_position_embeddings=32768,
    ),
    "gemma-7b": lambda: GemmaConfig(vocab_size=256000 + CODES),
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """A model of a shape as it is and as the engine runs it, and how long to measure."""

    llm: Any
    ready: Any
    vocabulary: Vocabulary
    steps: int
    repeats: int

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        device: torch.device = self.llm.device
        return device

    def prompts(self, count: int) -> list[list[int]]:
        """`count` random prompts that end in `<boi>`."""
        draw = random.Random(0)
        return [[*(draw.randrange(20, 400) for _ in range(PROMPT)), self.vocabulary.boi] for _ in range(count)]

    def requests(self, count: int) -> list[Request]:
        """The same for the engine."""
        task = ImageTask(GRID, SAMPLING, (self.vocabulary.eos, self.vocabulary.unconditional, self.vocabulary.boi))
        return [Request(tuple(prompt), seed, image=task) for seed, prompt in enumerate(self.prompts(count))]

    def clock(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def build(shape: str, device: str, dtype: torch.dtype, steps: int, repeats: int) -> Bench:
    """A model of random weights."""
    config = SHAPES[shape]()
    torch.manual_seed(0)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    text = config.vocab_size - CODES
    ids = {"boi": 7, "eoi": 8, "unconditional": 9, "bos": 2, "eos": 1, "pad": 0}
    vocabulary = Vocabulary(text, text, CODES, **ids, downsampling=16, resolution=(512, 512))
    ready = copy.deepcopy(llm) if device == "cpu" else llm
    pack(ready)
    return Bench(llm, ready, vocabulary, steps, repeats)


def engine_for(bench: Bench, max_batch: int = 16) -> Engine:
    """An engine in its final state."""
    engine = Engine(bench.ready, bench.vocabulary, max_batch)
    start = time.perf_counter()
    engine.compile()
    if (passed := time.perf_counter() - start) > 0.1:
        print(f"layers compiled or loaded in {passed:.1f} s")
    return engine


@torch.inference_mode()
def released(bench: Bench, count: int) -> float:
    """Milliseconds per step of the released algorithm: a cache that grows, all logits, sampling by sorting them."""
    unconditional = [bench.vocabulary.eos, bench.vocabulary.unconditional, bench.vocabulary.boi]
    rows = bench.prompts(count) + [unconditional] * count
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=bench.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=bench.device)
    cache = DynamicCache(config=bench.llm.config)
    times = []
    for _ in range(bench.steps + 1):
        start = bench.clock()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = bench.llm(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        conditional, against = output.logits[:, -1].float().chunk(2)
        logits = against + SAMPLING.guidance_scale * (conditional - against)
        logits[:, : bench.vocabulary.code_offset] = -torch.inf
        logits /= SAMPLING.temperature
        assert SAMPLING.top_k
        logits[logits < logits.topk(SAMPLING.top_k).values[:, -1:]] = -torch.inf
        ordered, order = logits.sort(descending=True)
        cut = (ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)) >= SAMPLING.top_p
        logits[cut.scatter(1, order, cut)] = -torch.inf
        code = torch.multinomial(logits.softmax(-1), 1)
        ids = torch.cat([code, code])
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        times.append(bench.clock() - start)
    return 1000 * statistics.median(times[1:])  # the first is the prompts'


def ours(bench: Bench, engine: Engine, count: int) -> float:
    """Milliseconds per step of the engine."""
    futures = [engine.submit(request) for request in bench.requests(count)]
    times = []
    for _ in range(bench.steps + 1):
        start = bench.clock()
        engine.step()
        times.append(bench.clock() - start)
    for future in futures:
        engine.cancel(future)
    engine.step()
    return 1000 * statistics.median(times[1:])


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(1 << (30 if device.type == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(20):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * len(source) / (time.perf_counter() - start))
    return best


def floor(bench: Bench, speed: float) -> float:
    """Milliseconds a step cannot be faster than: every layer's weights and the head's rows for codes, read once."""
    table = bench.llm.get_input_embeddings().weight
    read: int = sum(p.numel() * p.element_size() for p in bench.llm.base_model.parameters() if p is not table)
    head: int = CODES * table.shape[1] * table.element_size()
    return 1000 * (read + head) / speed


def drawing(bench: Bench, shape: str, batches: Sequence[int], speed: float) -> Iterator[Row]:
    """Guided pictures, so many at once."""
    for count in batches:
        engine = engine_for(bench, 2 * count)
        measures = functools.partial(ours, bench, engine, count), functools.partial(released, bench, count)
        mine, theirs = by_turns(bench.repeats, *measures)
        case = f"{shape}, {count} guided at once"
        yield Row(case, mine, theirs, theirs / mine, "ms/step", floor(bench, speed) / mine)
        pictures = 1000 * count / GRID[0] / GRID[1]
        yield Row(case, pictures / mine, pictures / theirs, theirs / mine, "pictures/s")


def arriving(bench: Bench, shape: str) -> Row:
    """Eight short pictures arriving at random, against one after another."""
    task = ImageTask((4, 8), SAMPLING, (1, 9, 7))
    requests = [dataclasses.replace(request, image=task) for request in bench.requests(8)]
    arrivals = sorted(random.Random(0).randrange(16) for _ in requests)

    def together() -> float:
        engine = engine_for(bench)
        start, step, waiting = bench.clock(), 0, list(zip(arrivals, requests, strict=True))
        while engine.step() or waiting:
            while waiting and waiting[0][0] <= step:
                engine.submit(waiting.pop(0)[1])
            step += 1
        return len(requests) / (bench.clock() - start)

    def in_turn() -> float:
        engine = engine_for(bench)
        start = bench.clock()
        for request in requests:
            engine.run([request])
        return len(requests) / (bench.clock() - start)

    mine, theirs = by_turns(bench.repeats, together, in_turn)
    return Row(f"{shape}, 8 arriving against in turn", mine, theirs, mine / theirs, "requests/s")


def quantised(bench: Bench, shape: str, speed: float) -> Row:
    """int8 weights against the engine's own precision."""
    with tempfile.TemporaryDirectory() as folder:
        bench.llm.save_pretrained(folder)
        small = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=bench.llm.dtype,
            device_map={"": bench.device},
            quantization_config=quantization_config("int8", bench.device),
        ).eval()
    pack(small)
    other = dataclasses.replace(bench, ready=small)
    engines = engine_for(other), engine_for(bench)
    mine, theirs = by_turns(bench.repeats, lambda: ours(other, engines[0], 1), lambda: ours(bench, engines[1], 1))
    return Row(f"{shape}, int8 against {bench.llm.dtype}", mine, theirs, theirs / mine, "ms/step")


def peak_memory(device: torch.device) -> float:
    """GiB this process has held at most, on the GPU if it uses one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one case, under a minute")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--shape", choices=SHAPES, help="one shape instead of those that suit the machine")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16], help="guided pictures at once")
    parser.add_argument("--steps", type=int, default=64, help="per measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side, by turns")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [options.shape] if options.shape else ["smollm2-135m", "gemma3-270m"]
    if device == "cuda" and not options.shape:
        shapes.append("gemma-7b")
    steps, repeats, batches = (8, 2, [1]) if options.quick else (options.steps, options.repeats, options.batches)
    speed = bandwidth(torch.device(device))
    print(f"{device}, {torch.get_num_threads()} threads, copies at {speed / 1e9:.1f} GB/s, torch {torch.__version__}")
    table = Table(options.json)
    for shape in shapes[:1] if options.quick else shapes:
        bench = build(shape, device, torch.bfloat16, steps, repeats)
        print(f"{shape}: a step reads at least {floor(bench, speed):.2f} ms of weights", flush=True)
        for row in drawing(bench, shape, batches, speed):
            table.add(row)
        if not options.quick:
            table.add(arriving(bench, shape))
            table.add(quantised(bench, shape, speed))
        print(f"{shape}: at most {peak_memory(bench.device):.2f} GiB held", flush=True)


if __name__ == "__main__":
    main()
