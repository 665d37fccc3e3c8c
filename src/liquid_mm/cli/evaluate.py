"""Commands that measure a model: eval, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Device, Dtype, Guidance, Size, Temperature, TopK, TopP


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a shard: write K/N, as in 2/8.")
    return int(number), int(count)


@app.command("eval")
def eval_(
    target: Annotated[
        list[str] | None, typer.Argument(help="A checkpoint (or 'demo'); or 'report' and folders of evaluations.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Names or kinds, with commas between them; see --list-tasks.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="Where the tasks' data are; else from the Hub.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write; a report's file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples of each task.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how much is to be done and how long it takes; stop.")
    ] = False,
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="Say what can be measured, and stop.")] = False,
    rescore: Annotated[Path | None, typer.Option(help="Score the predictions in this folder again, no model.")] = None,
    judge: Annotated[str | None, typer.Option(help="VQAScore's judge: folder or Hub id.")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIPScore's model: folder or Hub id.")] = None,
    features: Annotated[str | None, typer.Option(help="Net of Fréchet distances: inception[:FILE], …")] = None,
    size: Size = None,
    guidance: Guidance = None,
    temperature: Temperature = 0.99,
    top_k: TopK = 4096,
    top_p: TopP = 0.96,
    seed: Annotated[int, typer.Option(min=0, help="Picture i has seed + i.")] = 0,
    shots: Annotated[int | None, typer.Option(min=0, help="Of text tasks; by default the paper's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures computed at once.")] = 8,
    shard: Annotated[Any, typer.Option(metavar="K/N", parser=_shard, help="Do the K-th of N parts.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Run on Ray: one actor per GPU, or machine.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors, if not one per GPU.")] = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure a model as the paper does, with everything that made each number beside it."""
    from liquid_mm.errors import UserError

    if list_tasks:
        return _list()
    if target and target[0] == "report":
        return _report(target[1:], out)
    from liquid_mm.evaluate import run
    from liquid_mm.evaluate.settings import EvalSettings

    scoring: dict[str, Any] = {
        k: v for k, v in (("judge", judge), ("clip", clip), ("features", features)) if v is not None
    }
    if rescore:
        return _say(run.rescore(rescore, scoring, device), rescore)
    if not target or len(target) != 1 or not tasks or (out is None and not plan):
        raise UserError("give one checkpoint, --tasks and -o OUT; `liquid eval --list-tasks` says what there is.")
    from liquid_mm.record import stored_guidance

    guidance = stored_guidance(target[0]) if guidance is None else guidance
    settings = EvalSettings(
        seed=seed, size=size, guidance_scale=guidance, temperature=temperature, top_k=top_k, top_p=top_p,
        limit=limit, shots=shots, **scoring,
    )  # fmt: skip
    if plan:
        if cluster:
            raise UserError("--plan times this machine: leave out --cluster, and divide by the number of workers.")
        work = run.find_work(
            tasks.split(","), out, settings,
            data_dir=data_dir, batch_size=batch_size, shard=shard, device=device,
        )  # fmt: skip
        return _plan(target[0], work, device, dtype)
    assert out is not None
    results = run.evaluate(
        target[0], tasks.split(","), out, settings,
        data_dir=data_dir, batch_size=batch_size, shard=shard, cluster=cluster, workers=workers,
        device=device, dtype=dtype,
    )  # fmt: skip
    _say(results, out)


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from liquid_mm.evaluate.registry import TASKS

    table = Table("task", "kind", "data", "licence", box=None)
    for task in TASKS.values():
        table.add_row(
            task.name, task.kind, *((task.data.layout, task.data.licence) if task.data else ("lm-eval's", ""))
        )
    Console().print(table)


def _plan(checkpoint: str, work: Any, device: str | None, dtype: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from liquid_mm.evaluate.plan import plan_work
    from liquid_mm.scaling.plan import hours

    plans = plan_work(checkpoint, work, device=device, dtype=dtype)
    table = Table("task", box=None)
    for name in ("examples", "done", "to do here", "a second", "time"):
        table.add_column(name, justify="right")
    for each in plans:
        speed = f"{1 / each.each:.2f}" if each.each else ""
        table.add_row(
            each.task,
            f"{each.examples:,}",
            f"{each.done:,}",
            f"{each.left:,}",
            speed,
            hours(each.seconds) if each.left else "",
        )
    Console().print(table)
    typer.echo(f"{hours(sum(each.seconds for each in plans))}, judges and feature nets not counted.")


def _report(folders: list[str], out: Path | None) -> None:
    from liquid_mm.evaluate.report import compare, markdown
    from liquid_mm.files import atomic_file

    text = markdown(compare(folders), folders)
    if out:
        with atomic_file(out) as part:
            part.write_text(text, encoding="utf-8")
    typer.echo(text)


def _say(results: dict[str, Any], out: Path) -> None:
    from liquid_mm.evaluate.report import compare, markdown

    typer.echo(markdown(compare([out]), [out]))
    for name, task in results["tasks"].items():
        for note in task["notes"]:
            typer.echo(f"{name}: {note}")
    typer.echo(f"{out / 'results.json'}, to look at: {out / 'index.html'}")
