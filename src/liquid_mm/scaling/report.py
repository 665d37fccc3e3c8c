"""The two commands behind `liquid scaling fit` and `plot`: folders in, folders out.

    fit    run folders (or the tables of an earlier fit) → scaling_runs.csv, …, scaling.json, scaling_results.md
    plot   those                                          → scaling_figure4.png …, scaling.html

So whoever has the tables can redo every fit and figure without the runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liquid_mm.files import read_json, write_json
from liquid_mm.scaling.collect import RUNS, collect, load_tables, save_tables
from liquid_mm.scaling.figures import draw
from liquid_mm.scaling.folder import CELL
from liquid_mm.scaling.markdown import write_markdown
from liquid_mm.scaling.page import write_page
from liquid_mm.scaling.study import analyse

RESULTS, TABLES = "scaling.json", "scaling_results.md"


def fit_study(study: str | Path, out: str | Path, *, draws: int = 400, seed: int = 0) -> dict[str, Any]:
    """Read `study`, write its tables, `scaling.json` and the same as Markdown into `out`; returns what the JSON holds.

    Run folders, where there are any, count before tables that lie beside them.

    Raises:
        UserError: there are neither runs nor tables, or too few runs for any law.
    """
    study, out = Path(study), Path(out)
    only_tables = (study / RUNS).exists() and not any(study.glob(f"*/{CELL}"))
    save_tables(load_tables(study) if only_tables else collect(study), out)
    # Fitted are the rounded numbers of the tables, so that a fit to the tables alone gives the same to the last bit.
    tables = load_tables(out)
    results = analyse(tables, draws=draws, seed=seed)
    write_json(out / RESULTS, results)
    write_markdown(tables, results, out / TABLES)
    return results


def plot_study(tables: str | Path, out: str | Path) -> list[Path]:
    """Draw everything from what `fit_study` wrote into `tables`; returns the files, the page last.

    Raises:
        UserError: a table or `scaling.json` is missing.
    """
    data, results = load_tables(tables), read_json(Path(tables) / RESULTS)
    figures = draw(data, results, out)
    page = write_page(data, results, figures, Path(out) / "scaling.html")
    return [*(path for paths in figures.values() for path in paths), page]


def summary(results: dict[str, Any]) -> str:
    """Verdicts, refused laws and what was left out, as lines for a terminal."""
    lines = [f"{results['runs']} runs, {sum('refused' not in law for law in results['laws'])} laws"]
    lines += [f"{v['answer']:>8}  {v['question']} {v['evidence']}" for v in results["verdicts"]]
    lines += [
        f" refused  {law['law']} of {law['measure']} ({law['mix']}): {law['refused']}"
        for law in results["laws"]
        if "refused" in law
    ]
    lines += [f"left out  {line['cell']}: {line['reason']}" for line in results["left_out"]]
    return "\n".join(lines)
