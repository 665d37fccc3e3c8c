"""Many cells at a time on other machines, which share the file system: a Slurm job array, or Ray tasks.

Each cell is the same process as on one machine; only who starts it differs. The models it starts from are made before.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from jinja2 import Template

from liquid_mm.cluster import join
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file
from liquid_mm.scaling.grid import GridConfig
from liquid_mm.scaling.plan import Job
from liquid_mm.scaling.run import LIQUID, Launcher, Outcome, run_cell, sigterm_as_interrupt, unfinished

PATIENCE = 600
"""Seconds that stopped cells may take to keep their checkpoints."""

SCRIPT = Template(
    """\
#!/bin/bash
#SBATCH --job-name=liquid-scaling
#SBATCH --array=0-{{ cells | length - 1 }}{% if parallel %}%{{ parallel }}{% endif %}

#SBATCH --output={{ output }}/slurm-%A_%a.txt
{% for key, value in options.items() -%}
#SBATCH --{{ key }}={{ value }}
{% endfor -%}
# Slurm warns before the time limit, so that a checkpoint is kept; submitting again goes on from it.
#SBATCH --signal=B:TERM@120
cells=(
{%- for cell in cells %}
  {{ cell }}
{%- endfor %}
)
cd {{ directory }}
exec {{ command }} scaling run {{ grid }} --cell "${cells[$SLURM_ARRAY_TASK_ID]}"
""",
    keep_trailing_newline=True,
)


def slurm_script(grid: GridConfig, path: Path, jobs: Sequence[Job], parallel: int | None = None) -> Path:
    """Write the job array of the unfinished cells to `OUTPUT/slurm.sh`.

    Args:
        grid: the study.
        path: of its YAML file.
        jobs: its plan.
        parallel: most cells at a time; None leaves that to Slurm.

    Raises:
        UserError: nothing is left to do.
    """
    left = unfinished(grid, jobs)
    if not left:
        raise UserError("every cell is finished: there is nothing to submit.")
    text = SCRIPT.render(
        cells=[shlex.quote(job.cell.name) for job in left],
        parallel=parallel,
        output=grid.output.resolve(),
        options=grid.slurm,
        directory=shlex.quote(str(Path.cwd())),
        command=shlex.join(LIQUID),
        grid=shlex.quote(str(path)),
    )
    script = grid.output / "slurm.sh"
    with atomic_file(script) as part:
        part.write_text(text, encoding="utf-8")
    return script


def submit(script: Path) -> str:
    """Hand `script` to Slurm; returns what `sbatch` says.

    Raises:
        UserError: there is no `sbatch`, or it refuses.
    """
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no sbatch on this machine: submit {script} where there is.") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"sbatch refused {script}: {error.stderr.strip()}") from error
    return done.stdout.strip()


def run_ray(grid: GridConfig, jobs: Sequence[Job], report: Callable[[Outcome], None]) -> list[Outcome]:
    """Run the unfinished cells as Ray tasks, as many at a time as `grid.ray` lets fit into the cluster.

    Args:
        grid: the study.
        jobs: its plan.
        report: called with each outcome as it comes.

    Raises:
        UserError: Ray is not installed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once every running cell has kept a checkpoint, or after `PATIENCE`.
    """
    ray = join()
    remote = ray.remote(num_cpus=grid.ray.num_cpus, num_gpus=grid.ray.num_gpus)(run_there)
    outcomes = []
    with sigterm_as_interrupt():
        waiting = [remote.remote(grid, job, Path.cwd()) for job in unfinished(grid, jobs)]
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                for reference in done:
                    outcomes.append(ray.get(reference))
                    report(outcomes[-1])
        except BaseException:
            for reference in waiting:
                ray.cancel(reference)
            if waiting:  # tasks that run lose their processes with this one, so it must outlive them
                ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE)
            raise
    return outcomes


def run_there(grid: GridConfig, job: Job, directory: Path) -> Outcome:
    """`run_cell` as a Ray task, in the driver's working directory, which relative paths in recipes are meant from.

    Raises:
        KeyboardInterrupt: the task was cancelled; the training has kept a checkpoint.
    """
    try:
        os.chdir(directory)
    except OSError:
        return Outcome(
            job.cell.name,
            f"the machine {socket.gethostname()} has no folder {directory}: all machines must share the file system.",
        )
    # Ray cancels by `_thread.interrupt_main`, which does what SIGINT does: nothing where that is ignored, as in all
    # that descends from a command put in the background (`… &`).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    launch = Launcher()
    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(run_cell, grid, job, launch)
            # It is no real signal and wakes nobody: hence short waits.
            while not future.done():
                wait([future], timeout=0.5)
            return future.result()
        except KeyboardInterrupt:
            launch.stop()
            raise
