"""The tasks there are, by name and by kind."""

from __future__ import annotations

from collections.abc import Sequence

from liquid_mm.errors import UserError, nearest
from liquid_mm.evaluate.drawing import DPGBench, GenEval
from liquid_mm.evaluate.genai_bench import GenAIBench
from liquid_mm.evaluate.mjhq import MJHQ30K
from liquid_mm.evaluate.protocol import Task
from liquid_mm.evaluate.text import TEXT_TASKS
from liquid_mm.evaluate.tokenizer import TokenizerTask
from liquid_mm.evaluate.understanding import GQA, MME, POPE, TextVQA, VQAv2

_CLASSES: tuple[type[Task], ...] = (
    TokenizerTask, GenAIBench, MJHQ30K, GenEval, DPGBench, VQAv2, GQA, TextVQA, POPE, MME, *TEXT_TASKS
)  # fmt: skip
TASKS: dict[str, Task] = {cls.name: cls() for cls in _CLASSES}
KINDS = tuple(dict.fromkeys(task.kind for task in TASKS.values()))


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks called `names`; a kind ("text", "understanding" …) stands for all of its tasks.

    Raises:
        UserError: there is no such task.
    """
    found: dict[str, Task] = {}
    for name in names:
        mine = {n: task for n, task in TASKS.items() if name in (n, task.kind)}
        if not mine:
            raise UserError(f"unknown task {name!r}: {nearest(name, [*TASKS, *KINDS])}")
        found |= mine
    return list(found.values())
