"""What an evaluation task is: examples in, one prediction each, numbers out.

    examples ──predict(model)──> predictions.jsonl ──score──> rows (numbers per example) ──summarise──> values

Only `predict` sees the model under test; whatever it says or draws is written down as it comes. `score` may load other
networks (a judge, a feature net) but never the model, so that results can be scored again, years later, by other rules.
`summarise` is pure: a table of numbers per example in, named values out. Intervals and differences between checkpoints
come from calling it on resampled tables.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from liquid_mm.evaluate.data import DataSource
from liquid_mm.evaluate.settings import EvalSettings

Kind = Literal["tokenizer", "text-to-image", "understanding", "text"]
Table = Mapping[str, NDArray[Any]]
"""Columns of equal length, one entry per example."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One thing to be done.

    Attributes:
        id: unique in its task, and stable: it is what a resumed run goes by.
        inputs: what prompt, question, answers … are, as JSON; written beside the output.
        index: its place in the set, which decides its seed whatever is done beside it.
        image: the picture asked about: a path, or what reads its encoded bytes.
    """

    id: str
    inputs: Mapping[str, Any]
    index: int = 0
    image: Path | Callable[[], bytes] | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a task runs.

    Attributes:
        settings: of the run.
        folder: the task's output.
        data: the folder of its data.
        batch_size: pictures computed at once; changes no number.
        device: of judges and feature nets; None is the best there is.
    """

    settings: EvalSettings
    folder: Path
    data: Path
    batch_size: int = 8
    device: str | None = None


Prediction = dict[str, Any]
"""JSON: `id`, `inputs`, what the model gave, and paths of pictures relative to the task's folder."""


class Value(NamedTuple):
    """One number: `binary` says that it is the mean of `n` zeros and ones, times `scale`.

    `bounds` is its 95 % interval where it is no function of numbers per example, which are resampled instead.
    """

    value: float
    n: int
    binary: bool = False
    scale: float = 1.0
    bounds: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Scored:
    """What scoring gives: numbers per example, and values that are no function of such numbers (a Fréchet distance).

    Attributes:
        rows: for every prediction its `id` and the columns `summarise` needs.
        whole: values of the set as a whole, with their `bounds` if they have any.
        notes: what a reader has to know about how it was scored.
    """

    rows: list[dict[str, Any]]
    whole: dict[str, Value] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Task(ABC):
    """One line of a results table.

    Attributes:
        name: as on the command line.
        kind: what it measures.
        data: where its examples come from, or None if a library brings them.
        unit: a column of the table whose equal entries are resampled together, for examples that hang together.
        pictures: fields of a prediction that hold paths of pictures, for the page.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    data: ClassVar[DataSource | None] = None
    unit: ClassVar[str | None] = None
    pictures: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def examples(self, context: Context) -> Sequence[Example]:
        """All examples in `context.data`, in a fixed order.

        Raises:
            UserError: a file is missing or not of the layout in `data`.
        """

    @abstractmethod
    def predict(self, model: Any, examples: Sequence[Example], context: Context) -> Iterator[Prediction]:
        """One prediction per example, yielded as soon as it is made; pictures are written into `context.folder`.

        Args:
            model: a `LiquidModel`.
            examples: those still to be done.
            context: where it runs.
        """

    @abstractmethod
    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """Numbers for the predictions, without the model."""

    @abstractmethod
    def summarise(self, table: Table) -> dict[str, Value]:
        """The task's values from `Scored.rows` as columns."""


def to_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows with the same keys as columns."""
    return {key: np.asarray([row[key] for row in rows]) for key in (rows[0] if rows else {})}


def mean_of(table: Table, column: str, where: NDArray[np.bool_] | None = None, *, scale: float = 1.0) -> Value:
    """The mean of a column, or of the part of it that `where` selects; binary if it holds nothing but 0 and 1."""
    values = table[column] if where is None else table[column][where]
    binary = bool(np.isin(values, (0, 1)).all())
    return Value(float(values.mean()) * scale if values.size else float("nan"), int(values.size), binary, scale)


def batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """`examples` in runs of `size`."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]
