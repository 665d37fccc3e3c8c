"""Run a study's cells: each is the command `liquid train RECIPE key=value … --resume` in a process of its own.

A cell whose `final/` exists is done; any other is started, or goes on from its last checkpoint. What killed it, if
anything, is written into its `cell.json`, where `liquid scaling fit` finds the reason to leave it out.

    exit code   0 done, if there is a `final/`; without one the training was preempted (SIGTERM)   130 interrupted
                2 a mistake or a diverged loss: reported, not tried again
                anything else (a crash, the out-of-memory killer): resumed, `retries` times
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from liquid_mm.errors import UserError
from liquid_mm.files import write_json
from liquid_mm.scaling.folder import CELL, LOG, finished
from liquid_mm.scaling.grid import Cell, GridConfig, SizeConfig
from liquid_mm.scaling.plan import Job

LIQUID = (sys.executable, "-m", "liquid_mm.cli")

INTERRUPTED = 130
MISTAKE = 2


class Outcome(NamedTuple):
    """How a cell ended; `message` is empty for one that finished."""

    cell: str
    message: str


class Launcher:
    """Starts commands and can stop all of them.

    They get process groups of their own: Ctrl-C in a terminal would otherwise reach a training twice, directly and from
    here, and the second signal makes it give up without a checkpoint.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def __call__(self, command: Sequence[str], log: Path, threads: int | None = None) -> int:
        """Run `command` to its end, its output appended to `log`; the exit code, INTERRUPTED after `stop`."""
        env = dict(os.environ)
        if threads:
            env.setdefault("OMP_NUM_THREADS", str(threads))
        with log.open("ab") as file, self._lock:
            if self.stopped:
                return INTERRUPTED
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True
            )
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        return INTERRUPTED if self.stopped else code

    def stop(self) -> None:
        """Ask everything to end at its next step, keeping a checkpoint, and start nothing more."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def make_models(grid: GridConfig, chosen: Sequence[Cell], make: Callable[[SizeConfig, Path, int], None]) -> list[Path]:
    """Make the models of `chosen` cells that do not exist yet; return their folders.

    Args:
        grid: the study.
        chosen: its cells.
        make: writes the checkpoint folder of a size and a seed.
    """
    made = []
    for cell in chosen:
        folder = grid.output / "models" / cell.model
        if not folder.exists():
            make(grid.sizes[cell.size], folder, cell.seed)
            made.append(folder)
    return made


def call_for_models(grid: GridConfig, path: Path, chosen: Sequence[Cell]) -> None:
    """Have the command `liquid scaling models` make what is missing, in a process of its own, for it takes memory.

    Raises:
        UserError: it failed; its message was printed.
    """
    if any(not (grid.output / "models" / cell.model).exists() for cell in chosen):
        only = [argument for cell in chosen for argument in ("--cell", cell.name)]
        if subprocess.run([*LIQUID, "scaling", "models", str(path), *only]).returncode != 0:
            raise UserError("the models could not be made.")


def run_cell(grid: GridConfig, job: Job, launch: Launcher, threads: int | None = None) -> Outcome:
    """Train one cell to its end, measure its score, and note in its `cell.json` how it went."""
    run = job.cell.run(grid)
    _describe(grid, job.cell)
    train = [*LIQUID, "train", str(grid.recipe), *job.overrides, "--resume"]
    commands = [] if finished(run) else [(train, grid.retries)]  # the training is always the first
    score = grid.score_of(job.cell)
    if score is not None and not (run / score.file).exists():
        commands.append(([*LIQUID, *(part.format(run=run) for part in score.command)], 0))
    for command, retries in commands:
        code = launch(command, run / LOG, threads)
        while code not in (0, MISTAKE, INTERRUPTED) and retries > 0:
            retries -= 1
            code = launch(command, run / LOG, threads)
        if code == INTERRUPTED or (code == 0 and not finished(run)):
            return Outcome(job.cell.name, "interrupted; the next run goes on from its checkpoint")
        if code != 0:
            message = f"exit code {code}: {_last_line(run / LOG)}"
            _describe(grid, job.cell, failure=message)
            return Outcome(job.cell.name, message)
    if not grid.keep_checkpoints:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return Outcome(job.cell.name, "")


def run_local(grid: GridConfig, jobs: Sequence[Job], parallel: int, report: Callable[[Outcome], None]) -> list[Outcome]:
    """Run the unfinished cells on this machine, `parallel` at a time.

    Args:
        grid: the study.
        jobs: its plan.
        parallel: cells at once; each gets its share of the cores.
        report: called with each outcome as it comes.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, once every running cell has kept a checkpoint.
    """
    launch = Launcher()
    threads = max(1, (os.cpu_count() or 1) // parallel) if parallel > 1 else None
    outcomes = []
    with sigterm_as_interrupt(), ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(run_cell, grid, job, launch, threads) for job in unfinished(grid, jobs)]
        try:
            for future in as_completed(futures):
                outcomes.append(future.result())
                report(outcomes[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            launch.stop()
            raise
    return outcomes


def unfinished(grid: GridConfig, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with something left to do: training, or the score of a finished run."""

    def unscored(job: Job) -> bool:
        score = grid.score_of(job.cell)
        return score is not None and not (job.cell.run(grid) / score.file).exists()

    return [job for job in jobs if job.state != "done" or unscored(job)]


def failures(outcomes: Sequence[Outcome]) -> UserError | None:
    """What to tell the user if some cells did not finish."""
    bad = [outcome for outcome in outcomes if outcome.message]
    if not bad:
        return None
    lines = "\n".join(f"  {name}: {message}" for name, message in bad)
    return UserError(
        f"{len(bad)} of {len(outcomes)} cells did not finish; run the command again to go on with them:\n{lines}"
    )


def _describe(grid: GridConfig, cell: Cell, failure: str | None = None) -> None:
    """Write `cell.json`: what the run folder cannot say itself."""
    size, score = grid.sizes[cell.size], grid.score_of(cell)
    write_json(
        cell.run(grid) / CELL,
        {
            **dataclasses.asdict(cell),
            "start": size.start,
            "family": size.family,
            "score": None if score is None else score.model_dump(include={"file", "key", "higher_is_better"}),
            "failure": failure,
        },
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].rsplit("\r", 1)[-1] if lines else "no message"


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let `kill` end a study the way Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
