"""A step that is not taken: what its batch held goes into a file, and what can be done about it to the user.

documents = documents_of(engine, describe, batches, costs)
path = write(run, step, trouble, place, documents)        `liquid inspect PATH` shows them
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from liquid_mm.errors import UserError
from liquid_mm.files import write_json
from liquid_mm.train.engine import Engine
from liquid_mm.train.guard import Trouble
from liquid_mm.train.inputs import Inputs
from liquid_mm.train.loss import TokenStats
from liquid_mm.train.records import worst_first

Describe = Callable[[Any, Any], list[dict[str, Any]]]
"""The documents of a batch of this process (`train.records`), given what each of its tokens cost, (B, T)."""


def token_costs(engine: Engine, x: Inputs, stats: TokenStats) -> Any:
    """What each token of a batch cost, (B, T) on the CPU; 0 where nothing is learnt."""
    costs = torch.zeros(x.ids.numel(), device=x.ids.device)
    costs[x.where] = stats.loss.detach().float()
    before = engine.whole_rows(costs.view(x.ids.shape))  # what predicting the next token cost
    return before.roll(1, 1).cpu().numpy()


def documents_of(
    engine: Engine, describe: Describe | None, batches: list[Any], costs: list[Any]
) -> list[dict[str, Any]]:
    """The documents of a step over all processes, the worst first; none where nobody can describe them."""
    held = [found for pair in zip(batches, costs, strict=True) for found in describe(*pair)] if describe else []
    # Processes that compute the same rows read the same documents.
    read = engine.gather(held)[:: engine.tensor * engine.context]
    return worst_first([document for process in read for document in process])


def path_of(run: Path, step: int) -> Path:
    """Where the documents of a bad step are written down."""
    return run / "bad" / f"step-{step:08d}.json"


def write(run: Path, step: int, trouble: Trouble, place: Any, documents: list[dict[str, Any]]) -> None:
    """Write them down, with what was wrong and the place in the data to go back to."""
    found = {"step": step, "reason": trouble.reason, **trouble.values(), "data": place, "documents": documents}
    write_json(path_of(run, step), found)


def error(run: Path, model: Path | str, step: int, trouble: Trouble, documents: list[dict[str, Any]]) -> UserError:
    """What a user is told when training ends there."""
    worst = "".join(f", most of all record {d['record']} of {d['set']}" for d in documents[:1])
    return UserError(
        f"{trouble.reason} in step {step}. It read {len(documents)} documents{worst}: look at them with "
        f"`liquid inspect {path_of(run, step)} -c {model}`. Lower lr or new_rows_lr, clip harder, or leave such steps "
        f"out with on_bad_step: skip. Checkpoints in {run / 'checkpoints'} are from before."
    )
