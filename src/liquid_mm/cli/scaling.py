"""Commands that test the paper's findings: scaling run, scaling fit, scaling plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import extra

if TYPE_CHECKING:
    from liquid_mm.scaling.grid import Cell, GridConfig, SizeConfig

scaling = typer.Typer(help="Scaling laws and what tasks do to each other, on your own models.", no_args_is_help=True)
app.add_typer(scaling, name="scaling")

Grid = Annotated[Path, typer.Argument(help="A YAML file: sizes, mixes, lengths, seeds (docs/scaling.md).")]
Chosen = Annotated[list[str] | None, typer.Option("--cell", help="Only this cell; may be repeated.")]


@scaling.command()
def run(
    grid: Grid,
    only: Chosen = None,
    plan: Annotated[bool, typer.Option("--plan", help="Make the models, show what it would cost, and stop.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells at a time on this machine.")] = 1,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit the cells as a Slurm job array.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run the cells as Ray tasks.")] = False,
) -> None:
    """Train every cell of a grid that is not finished; run it again to go on after a stop."""
    from rich.console import Console

    from liquid_mm.scaling import plan as plans
    from liquid_mm.scaling import run as runner
    from liquid_mm.train.config import TrainConfig

    config, cells = _read(grid, only)
    resolved = plans.resolve(config, cells, TrainConfig)
    runner.call_for_models(config, grid, cells)
    work = plans.plan(config, resolved)
    Console().print(plans.table(work, jobs))
    if plan:
        return
    if slurm:
        from liquid_mm.scaling import cluster

        typer.echo(cluster.submit(cluster.slurm_script(config, grid, work, jobs if jobs > 1 else None)))
        return

    def report(outcome: runner.Outcome) -> None:
        typer.echo(f"{outcome.cell}: {outcome.message or 'done'}")

    try:
        if ray:
            from liquid_mm.scaling import cluster

            outcomes = cluster.run_ray(config, work, report)
        else:
            outcomes = runner.run_local(config, work, jobs, report)
    except KeyboardInterrupt:
        typer.echo("stopped; checkpoints are kept. Run the same command to go on.", err=True)
        raise typer.Exit(runner.INTERRUPTED) from None
    if error := runner.failures(outcomes):
        raise error


@scaling.command()
def models(grid: Grid, only: Chosen = None) -> None:
    """Make the models that a grid's cells start from; `run` does this by itself."""
    from liquid_mm.scaling.run import make_models

    config, cells = _read(grid, only)
    for folder in make_models(config, cells, lambda size, out, seed: _make(config, size, out, seed)):
        typer.echo(folder)


@scaling.command()
def fit(
    study: Annotated[Path, typer.Argument(help="A study's folder of runs, or a folder with its tables.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where tables and scaling.json go.")] = None,
    draws: Annotated[int, typer.Option(min=50, help="Bootstrap refits of each law.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Fit scaling laws to a study's runs and answer the paper's questions; writes tables and scaling.json."""
    with extra("eval"):
        from liquid_mm.scaling.report import fit_study, summary

    typer.echo(summary(fit_study(study, out or study, draws=draws, seed=seed)))


@scaling.command()
def plot(
    tables: Annotated[Path, typer.Argument(help="The folder `liquid scaling fit` wrote into.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where figures and scaling.html go.")] = None,
) -> None:
    """Draw the paper's Figures 4, 6, 7 and Table 5 from the tables, without the runs."""
    with extra("eval"):
        from liquid_mm.scaling.report import plot_study

    for path in plot_study(tables, out or tables):
        typer.echo(path)


def _read(grid: Path, only: list[str] | None) -> tuple[GridConfig, list[Cell]]:
    from liquid_mm.config import load_config
    from liquid_mm.scaling.grid import GridConfig, choose

    config = load_config(GridConfig, grid)
    return config, choose(config, only or ())


def _make(grid: GridConfig, size: SizeConfig, out: Path, seed: int) -> None:
    """The extended model of one size: pretrained, or random weights first."""
    import tempfile

    from liquid_mm import extend
    from liquid_mm.vocab.random_base import random_base

    if size.base is not None:
        extend(size.base, grid.image_tokenizer, out, seed=seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        tokenizer = grid.text_tokenizer if size.shape is not None else None
        random_base(base, like=size.like, shape=size.shape, text_tokenizer=tokenizer, seed=seed)
        extend(str(base), grid.image_tokenizer, out, seed=seed)
