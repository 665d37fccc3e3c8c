"""A study as a YAML file: which models, on which data, how long, how often.

    recipe: recipes/scaling/train.yaml           # what all cells share; a `liquid train` recipe
    output: runs/scaling                         # one run folder per cell
    image_tokenizer: runs/emoji-tokenizer/tokenizer
    text_tokenizer: runs/scaling-text-tokenizer
    sizes:
      1M: {shape: {hidden_size: 128, num_hidden_layers: 5, …}, train: {lr: 2.0e-3}}
      pretrained: {base: Qwen/Qwen2.5-0.5B}
      untrained: {like: Qwen/Qwen2.5-0.5B}
    mixes:
      text: {sources: [{path: data/text}]}
      t2i: {sources: [{path: data/pairs}]}
      both: {length: 2, sources: [{path: data/text}, {path: data/pairs, weight: 5}]}
    cells:                                       # blocks of products; what two blocks share is run once
      - {sizes: [1M], mixes: [text, t2i, both], seeds: [0, 1, 2]}
      - {sizes: [1M], mixes: [t2i], lengths: [0.25, 0.5, 1, 2]}

A cell trains `recipe.steps × mix.length × length` steps. `mix.length` is there because a model that learns two tasks
must meet each as often as one that learns it alone (paper section 4.3).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from liquid_mm.config import Config
from liquid_mm.errors import UserError, nearest

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SizeConfig(Config):
    """A model to start from: exactly one of `base`, `like` and `shape`.

    Args:
        base: a pretrained model, as `liquid extend` takes it.
        like: the same architecture and text tokenizer with random weights.
        shape: keys of a transformers configuration (`model_type` is llama unless given), random weights.
        train: settings of the training recipe for this size, by dotted key.
    """

    base: str | None = None
    like: str | None = None
    shape: dict[str, Any] | None = None
    train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> SizeConfig:
        if sum(start is not None for start in (self.base, self.like, self.shape)) != 1:
            raise ValueError("give exactly one of base, like and shape.")
        return self

    @property
    def start(self) -> Literal["pretrained", "random"]:
        """What the weights know."""
        return "random" if self.base is None else "pretrained"

    @property
    def family(self) -> str:
        """What a pretrained and a random start must share to be compared."""
        return self.base or self.like or "shape"


class MixConfig(Config):
    """What a cell reads.

    Args:
        sources: as `data.sources` of a training recipe.
        length: its steps, as a multiple of the recipe's.
        train: settings of the training recipe for this mix, by dotted key.
    """

    sources: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    length: Positive = 1.0
    train: dict[str, Any] = Field(default_factory=dict)


class BlockConfig(Config):
    """All combinations of these."""

    sizes: Annotated[tuple[Name, ...], Field(min_length=1)]
    mixes: Annotated[tuple[Name, ...], Field(min_length=1)]
    lengths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)


class ScoreConfig(Config):
    """An image score, measured on finished cells.

    Args:
        command: arguments of `liquid`; `{run}` stands for the run folder.
        file: JSON file it writes, below the run folder.
        key: where the number stands in it, dotted.
        higher_is_better: a Fréchet distance is not, a VQAScore is.
        mixes: those it is measured on, where not all of them draw; none named: all.
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    file: str
    key: str
    higher_is_better: bool = True
    mixes: tuple[Name, ...] = ()


class SpeedConfig(Config):
    """What the plan's times are guessed from until a cell of the same size has been measured.

    Args:
        flops: FLOP/s the machine sustains in training.
        step_seconds: what a step costs besides.
        start_seconds: what a cell costs besides: imports, loading, validation, saving.
    """

    flops: Positive = 1e12
    step_seconds: Annotated[float, Field(ge=0)] = 0.05
    start_seconds: Annotated[float, Field(ge=0)] = 30


class RayConfig(Config):
    """What Ray reserves for each cell."""

    num_cpus: Positive = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0


class GridConfig(Config):
    """A study.

    Args:
        recipe: training recipe all cells share; its model, output, steps, seeds and sources are set per cell.
        output: folder of run folders; `models/` in it holds what cells start from.
        image_tokenizer: the image tokenizer all models are extended by.
        text_tokenizer: the text tokenizer of sizes given by `shape`.
        sizes, mixes: by name. `liquid scaling fit` tests the paper's claims on mixes named text, t2i and both, and on
            1-1-1, 1-2-1 and 1-1-2 (text : generation : understanding).
        cells: what to run.
        score: an image score to measure, or None.
        speed: for the plan.
        retries: how often a cell that crashes or is killed is resumed in one go.
        keep_checkpoints: keep what a finished cell could have been resumed from.
        slurm: `#SBATCH` options of one cell, such as {partition: gpu, time: "4:00:00", gres: "gpu:1"}.
        ray: resources of one cell.
    """

    recipe: Path
    output: Path
    image_tokenizer: Path
    text_tokenizer: str | None = None
    sizes: dict[Name, SizeConfig]
    mixes: dict[Name, MixConfig]
    cells: Annotated[tuple[BlockConfig, ...], Field(min_length=1)]
    score: ScoreConfig | None = None
    speed: SpeedConfig = SpeedConfig()
    retries: Annotated[int, Field(ge=0)] = 1
    keep_checkpoints: bool = False
    slurm: dict[str, str | int] = Field(default_factory=dict)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _names(self) -> GridConfig:
        for block in self.cells:
            _known("cells", block.sizes, self.sizes, "size")
            _known("cells", block.mixes, self.mixes, "mix")
        _known("score.mixes", () if self.score is None else self.score.mixes, self.mixes, "mix")
        shaped = [name for name, size in self.sizes.items() if size.shape is not None]
        if shaped and self.text_tokenizer is None:
            raise ValueError(f"size {shaped[0]!r} is given by its shape, which needs text_tokenizer.")
        by_name: dict[str, Cell] = {}
        for cell in cells(self):
            other = by_name.setdefault(cell.name, cell)
            if other != cell:
                which = [f"size {c.size}, mix {c.mix}, length {c.length}" for c in (other, cell)]
                raise ValueError(
                    f"two cells would share the run folder {cell.name!r} ({'; '.join(which)}): "
                    "rename a size or a mix, or choose lengths that differ in their first six digits."
                )
        return self

    def score_of(self, cell: Cell) -> ScoreConfig | None:
        """How the finished `cell` is scored; None: not at all."""
        wanted = self.score is not None and (not self.score.mixes or cell.mix in self.score.mixes)
        return self.score if wanted else None


def _known(where: str, used: Iterable[str], known: Mapping[str, object], what: str) -> None:
    for name in used:
        if name not in known:
            raise ValueError(f"{where} name an unknown {what} {name!r}: {nearest(name, known)}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    size: str
    mix: str
    length: float
    seed: int

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.size}_{self.mix}_x{self.length:g}_s{self.seed}"

    @property
    def model(self) -> str:
        """Of the folder it starts from; every seed starts from weights of its own."""
        return f"{self.size}_s{self.seed}"

    def run(self, grid: GridConfig) -> Path:
        """Its run folder."""
        return grid.output / self.name

    def overrides(self, grid: GridConfig, steps: int) -> list[str]:
        """What `liquid train RECIPE` is told besides, `steps` being the recipe's own number."""
        size, mix = grid.sizes[self.size], grid.mixes[self.mix]
        settings = {
            **size.train,
            **mix.train,
            "model": str(grid.output / "models" / self.model),
            "output": str(self.run(grid)),
            "steps": max(1, round(steps * mix.length * self.length)),
            "seed": self.seed,
            "data.seed": self.seed,
            "data.sources": list(mix.sources),
        }
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def cells(grid: GridConfig) -> list[Cell]:
    """Every cell of the study once, in the order of its blocks."""
    found = (
        Cell(*values)
        for block in grid.cells
        for values in itertools.product(block.sizes, block.mixes, block.lengths, block.seeds)
    )
    return list(dict.fromkeys(found))


def choose(grid: GridConfig, names: Sequence[str]) -> list[Cell]:
    """The cells of these names, or all if there are none.

    Raises:
        UserError: a name that is no cell's.
    """
    found = cells(grid)
    by_name = {cell.name: cell for cell in found}
    for name in names:
        if name not in by_name:
            raise UserError(f"the grid has no cell {name!r}: {nearest(name, by_name)}")
    return [by_name[name] for name in names] or found
