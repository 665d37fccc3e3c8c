"""Tokenised sets in, fixed-shape batches out: the chain of iterators that feeds training.

    set A: shuffle · draw task \\
    set B: shuffle · draw task  >- schedule - groups: render, pack into rows - batch - rank's rows
    set C: shuffle · draw task /

    mixture = build_mixture(MixtureConfig(sources=({"path": "data/emoji"},), seq_len=512, batch_size=8), renderer)
    batch = next(mixture)          batch["ids"].shape == (8, 512)

Rows hold several examples one after another: `segment_ids` counts them from 1 (0 is padding) and `positions` restart at
each, so attention and loss can be kept inside an example. grain does the index work: up to the groups every step is a
pure function of (seed, position), so any number of threads may prepare groups ahead of time, and the stream of rows
depends on the configuration alone. Each rank computes the same global batch and keeps its own rows; a state of a few
hundred bytes resumes exactly, with another number of ranks, threads or rows in a batch too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from liquid_mm.data import groups
from liquid_mm.data.config import MixtureConfig, SourceConfig
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.examples import CAPTION, CODE, NONE, TEXT, Example, ExampleMaker, captioning, draw, sized
from liquid_mm.data.packing import Row, Rows
from liquid_mm.data.schedule import Schedule
from liquid_mm.errors import UserError
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Record, TextToImage
from liquid_mm.vocab.vocabulary import Vocabulary

# grain looks for JAX's profiler when imported and says that it found none, which means nothing to our users.
logging.getLogger("absl").addFilter(lambda record: "jax profiler" not in record.getMessage())
import grain  # noqa: E402
from grain.experimental import FlatMapIterDataset, FlatMapTransform  # noqa: E402

__all__ = [
    "CAPTION", "CODE", "NONE", "TEXT", "Batch", "Mixture", "MixtureConfig", "SourceConfig", "Validation",
    "build_mixture", "build_validation", "examples",
]  # fmt: skip

Read = tuple[int, int, Record]
"""Number of the source, number of the record in its set, and the record with its task drawn."""

Batch = Row
"""A batch has the arrays of a row, of shape (B, T): B rows of this rank, T = `seq_len`.

`loss_mask` marks targets: id t is learnt from the ids before it in its segment. `modality` says what each target is
(`examples.modality`).
"""


class Mixture(Iterator[Batch]):
    """The stream of batches that `build_mixture` makes; `get_state` and `set_state` resume it exactly."""

    def __init__(
        self, rows: grain.IterDataset, config: MixtureConfig, rank: slice, identity: str, maker: ExampleMaker,
        schedule: Schedule, lengths: Sequence[int],
    ) -> None:  # fmt: skip
        self._batches = iter(rows.batch(config.batch_size, drop_remainder=True))
        self._rank, self._identity, self._maker = rank, identity, maker
        self._schedule, self._lengths = schedule, lengths

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            UserError: every source has been read as often as its `epochs` allow.
        """
        try:
            return _slice(next(self._batches), self._rank)
        except StopIteration:
            raise UserError(
                f"all {len(self._schedule)} records that `epochs` allow have been read: "
                "train for fewer steps, or allow a source more epochs."
            ) from None

    @property
    def skipped(self) -> Mapping[str, int]:
        """Pairs and conversations longer than a row, left out since this process began, by source."""
        return dict(self._maker.skipped)

    @property
    def epochs(self) -> Mapping[str, float]:
        """How often each source has been read, by its path; up to a group of all wait in the rows at hand."""
        position = self._batches.get_state()
        opened = position["parent"]["next_index"] + (position["next_index_in_buffer"] > 0)
        given = self._schedule.given(min(groups.start(opened), len(self._schedule)))
        counts = zip(self._maker.names, given, self._lengths, strict=True)
        return {name: count / length for name, count, length in counts}

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the last batch, as JSON-serialisable values; the same on every rank."""
        return {"data": self._identity, "position": self._batches.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where `get_state` was called: the next batch is the one that followed.

        Raises:
            UserError: the state belongs to other data, weights, seed or sequence length.
        """
        if state["data"] != self._identity:
            raise UserError(
                "this run cannot be resumed with other data: the sets, their weights and shares, seed, seq_len and "
                "vocabulary must be those it was started with, and the version of this package too."
            )
        self._batches.set_state(state["position"])


class Validation(Iterable[Batch]):
    """Each iteration is one pass over all records, in the same order; see `build_validation`."""

    def __init__(self, rows: grain.IterDataset, config: MixtureConfig, rank: slice, pad: int) -> None:
        self._rows, self._size, self._rank, self._pad = rows, config.batch_size, rank, pad

    def __iter__(self) -> Iterator[Batch]:
        fill = {"ids": self._pad, "source": -1, "record": -1}
        for values in self._rows.batch(self._size):
            missing = ((0, self._size - len(values["ids"])), (0, 0))
            whole = {key: np.pad(value, missing, constant_values=fill.get(key, 0)) for key, value in values.items()}
            yield _slice(whole, self._rank)


def build_mixture(
    config: MixtureConfig, renderer: Renderer, *, rank: int = 0, world: int = 1, fingerprint: str | None = None
) -> Mixture:
    """A stream of packed batches, endless unless every source has a limit of `epochs`.

    Args:
        config: sets, weights, sequence length, rows, seed.
        renderer: the model's.
        rank, world: this process and how many there are; each gets `batch_size / world` rows of the same global batch.
        fingerprint: of the model's image tokenizer, to refuse sets made with another; None skips that check.

    Raises:
        UserError: a set is missing or made for another vocabulary, its images do not fit `seq_len`, or `batch_size` is
            not a multiple of `world`.
    """
    sets = _open_sets(config, renderer.vocabulary, fingerprint)
    maker = _maker(config, renderer)
    schedule = _schedule(config, sets)
    rows = _pack(_records(config, sets, schedule, renderer.vocabulary), maker, config)
    identity = _identity(config, sets, renderer.vocabulary)
    return Mixture(
        rows, config, _rank_rows(config, rank, world), identity, maker, schedule, [len(records) for records in sets]
    )


def build_validation(
    config: MixtureConfig, renderer: Renderer, *, rank: int = 0, world: int = 1, fingerprint: str | None = None
) -> Validation:
    """One deterministic pass over every record of every source, as often as it is iterated.

    Nothing is drawn: a pair appears as text to image with its caption and the canonical instruction, and also as image
    to text where its source's `reversal` is above 0. Weights do not count. The order is shuffled by the seed, so a
    prefix is a fair sample; empty rows fill the last batch, so that every rank gets as many batches of one shape.
    Arguments and errors are those of `build_mixture`.
    """
    sets = _open_sets(config, renderer.vocabulary, fingerprint)
    passes = []
    for number, (source, records) in enumerate(zip(config.sources, sets, strict=True)):
        stored = grain.MapDataset.range(len(records))
        passes.append(stored.map(_tagged(number, records, lambda record: _stated(record, renderer.vocabulary))))
        if records.manifest.kind == "pairs" and source.reversal > 0:
            passes.append(stored.map(_tagged(number, records, captioning)))
    order = grain.MapDataset.concatenate(passes).shuffle(seed=_seeds(config, 0)[0])
    rows = _pack(order, _maker(config, renderer), config)
    return Validation(rows, config, _rank_rows(config, rank, world), renderer.vocabulary.pad)


def examples(config: MixtureConfig, renderer: Renderer) -> Iterator[Example]:
    """The mixture's examples one by one, unpacked and in order: the slow reference that packing must agree with."""
    sets = _open_sets(config, renderer.vocabulary, None)
    maker = _maker(config, renderer)
    records = _records(config, sets, _schedule(config, sets), renderer.vocabulary)
    for found in records.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)):
        yield from maker(*found)


def _open_sets(config: MixtureConfig, vocabulary: Vocabulary, fingerprint: str | None) -> list[TokenizedSet]:
    sets = [TokenizedSet(source.path) for source in config.sources]
    for records in sets:
        records.check(vocabulary, fingerprint)
        for size in records.manifest.sizes:
            width, height = map(int, size.split("x"))
            rows, columns = vocabulary.grid((width, height))
            # Besides its codes an image needs <boi>, <eoi> and at least one token of text.
            if rows * columns + 3 > config.seq_len:
                raise UserError(
                    f"images of {size} pixels in {records.path} are {rows * columns} codes each and do not fit "
                    f"seq_len {config.seq_len}: use a longer seq_len or smaller images."
                )
    return sets


def _maker(config: MixtureConfig, renderer: Renderer) -> ExampleMaker:
    return ExampleMaker(renderer, config.seq_len, tuple(str(source.path) for source in config.sources))


def _schedule(config: MixtureConfig, sets: list[TokenizedSet]) -> Schedule:
    limits = [
        None if source.epochs is None else math.ceil(source.epochs * len(records))
        for source, records in zip(config.sources, sets, strict=True)
    ]
    return Schedule([source.weight for source in config.sources], limits)


def _records(
    config: MixtureConfig, sets: list[TokenizedSet], schedule: Schedule, vocabulary: Vocabulary
) -> grain.MapDataset:
    """What is read, in order, each with its task drawn; an epoch of a source has an order and tasks of its own."""
    streams = []
    for number, (source, records) in enumerate(zip(config.sources, sets, strict=True)):
        order, tasks = _seeds(config, number)
        shuffled = grain.MapDataset.range(len(records)).shuffle(seed=order)
        streams.append(shuffled.random_map(_drawn(number, source, records, vocabulary), seed=tasks))
    # A data set of grain takes an index beyond its end as one of a later epoch.
    return grain.MapDataset.source(schedule).map(lambda place: streams[place[0]][place[1]])


def _drawn(
    number: int, source: SourceConfig, records: TokenizedSet, vocabulary: Vocabulary
) -> Callable[[int, np.random.Generator], Read]:
    shares = source.model_dump(include={"reversal", "unconditional", "paraphrase"})
    return lambda index, rng: (number, int(index), draw(records[index], rng, vocabulary, **shares))


def _tagged(number: int, records: TokenizedSet, task: Callable[[Any], Record]) -> Callable[[int], Read]:
    return lambda index: (number, int(index), task(records[index]))


def _stated(record: Record, vocabulary: Vocabulary) -> Record:
    return sized(record, vocabulary) if isinstance(record, TextToImage) else record


def _pack(records: grain.MapDataset, maker: ExampleMaker, config: MixtureConfig) -> grain.IterDataset:
    """Rows of all records, a group at a time; with `workers`, that many groups are prepared ahead."""
    # Tokenizers are not safe to share with another thread, nor with one that samples pictures meanwhile.
    makers: queue.SimpleQueue[ExampleMaker] = queue.SimpleQueue()
    for _ in range(max(1, config.workers)):
        makers.put(maker.sibling() if config.workers else maker)

    def rows(number: int, group: Sequence[Read]) -> Rows:
        own = makers.get()
        try:
            examples = [example for found in group for example in own(*found)]
        finally:
            makers.put(own)
        rng = np.random.default_rng([config.seed, number])
        return Rows(examples, config.seq_len, maker.renderer.vocabulary.pad, rng)

    class Unpack(FlatMapTransform):  # type: ignore[misc]
        def flat_map(self, element: Rows) -> Rows:
            return element

    ahead = grain.ReadOptions(num_threads=config.workers, prefetch_buffer_size=config.workers)
    packed = grain.MapDataset.source(groups.Groups(records)).map_with_index(rows)
    return FlatMapIterDataset(packed.to_iter_dataset(ahead), Unpack())


def _slice(values: Mapping[str, NDArray[Any]], rank: slice) -> Batch:
    return cast(Batch, {key: value[rank] for key, value in values.items()})


def _rank_rows(config: MixtureConfig, rank: int, world: int) -> slice:
    assert 0 <= rank < world
    if config.batch_size % world:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {world} processes: use a multiple of {world}."
        )
    share = config.batch_size // world
    return slice(rank * share, (rank + 1) * share)


def _seeds(config: MixtureConfig, number: int) -> tuple[int, int]:
    """Seeds of source `number` for its order and its tasks."""
    order, tasks = np.random.SeedSequence([config.seed, number]).generate_state(2)
    return int(order), int(tasks)


def _identity(config: MixtureConfig, sets: list[TokenizedSet], vocabulary: Vocabulary) -> str:
    """A hash of all that decides the stream of rows; folders may move, ranks, threads and batch size may change."""
    free: Any = {"batch_size": True, "workers": True, "sources": {"__all__": {"path"}}}
    value = {
        "packing": [groups.FIRST, groups.LARGEST],
        "config": config.model_dump(mode="json", exclude=free),
        "sets": [records.signature() for records in sets],
        "vocabulary": vocabulary.fingerprint(),
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
