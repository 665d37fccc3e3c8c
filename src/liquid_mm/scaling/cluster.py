"""Many cells at a time on other machines, which share the file system: a Slurm job array, or Ray tasks.

Each cell is the same process as on one machine; only who starts it differs. The models it starts from are made before.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Template

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file
from liquid_mm.scaling.grid import GridConfig
from liquid_mm.scaling.plan import Job
from liquid_mm.scaling.run import LIQUID, Launcher, Outcome, run_cell, unfinished

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

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'liquid-mm[cluster]'.") from error
    ray.init(ignore_reinit_error=True)

    def task(job: Job) -> Outcome:
        return run_cell(grid, job, Launcher())

    remote = ray.remote(num_cpus=grid.ray.num_cpus, num_gpus=grid.ray.num_gpus)(task)
    waiting = [remote.remote(job) for job in unfinished(grid, jobs)]
    outcomes = []
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            for reference in done:
                outcomes.append(ray.get(reference))
                report(outcomes[-1])
    except BaseException:
        for reference in waiting:
            ray.cancel(reference)  # interrupts the task, whose launcher lets the training keep a checkpoint
        raise
    return outcomes
