"""One self-contained HTML page of a study: verdicts, figures, laws, Table 5, what was left out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

from liquid_mm.files import atomic_file
from liquid_mm.scaling.collect import Tables
from liquid_mm.scaling.study import RATIOS

PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Scaling study</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .25rem .7rem; text-align: left }
td, th { border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
.yes { color: #137333 } .no { color: #b3261e } .untested { color: #777 }
</style>
<h1>Scaling study</h1>
<p>{{ results.runs }} runs, {{ '%.2e' % results.flops }} FLOPs, {{ '%.1f' % (results.seconds / 3600) }} hours
of training. Intervals are 95 %; p-values are one-sided and of one question alone.</p>
<h2>The paper's claims</h2>
<table><tr><th>question<th>answer<th>evidence
{%- for v in results.verdicts %}
<tr><td>{{ v.question }}<td class="{{ v.answer }}"><b>{{ v.answer }}</b><td>{{ v.evidence }}
{%- endfor %}</table>
{%- for name, source in figures.items() %}
<h2>{{ titles[name] }}</h2>
<img alt="{{ titles[name] }}" src="{{ source }}">
{%- endfor %}
{%- if table5 %}
<h2>Table 5: do understanding and generation help each other?</h2>
<table><tr>{% for name in table5[0] %}<th>{{ name }}{% endfor %}
{%- for row in table5 %}
<tr>{% for value in row.values() %}<td class="n">{{ value }}{% endfor %}
{%- endfor %}</table>
{%- endif %}
<h2>Laws</h2>
<p>loss = floor + &Sigma; coefficient / variable<sup>exponent</sup></p>
<table><tr><th>law<th>mix<th>loss<th>points of runs<th>floor<th>exponents<th>R² of points; of runs
<th>largest size, left out
{%- for law in results.laws %}
<tr><td>{{ law.law }}<td>{{ law.mix }}<td>{{ law.measure }}<td class="n">{{ law.n }} of {{ law.runs }}
{%- if law.refused %}<td colspan="4">refused: {{ law.refused }}
{%- else %}<td class="n">{{ law.floor | number }}<td class="n">{{ law.exponents | map('number') | join('; ') }}
<td class="n">{{ '%.4f' % law.r_squared }}; {{ '%.4f' % law.r_squared_of_runs }}
<td class="n">
{%- if law.left_out_largest and law.left_out_largest.error is defined -%}
{{ '%+.2f' % (100 * law.left_out_largest.error) }} %
{%- endif %}
{%- endif %}
{%- endfor %}</table>
<h2>Left out</h2>
{%- if results.left_out %}
<table><tr><th>run<th>reason
{%- for line in results.left_out %}
<tr><td>{{ line.cell }}<td>{{ line.reason }}
{%- endfor %}</table>
{%- else %}
<p>No run was left out.</p>
{%- endif %}
</html>
"""

TITLES = {
    "figure4": "Figure 4: drawing improves with size and training",
    "figure6": "Figure 6: what pictures cost text",
    "figure7": "Figure 7: what text costs pictures",
    "laws": "Laws of drawing",
}

COLUMNS = ("code_loss", "code_accuracy", "score", "caption_loss", "caption_accuracy", "text_loss")


def table5(runs: pd.DataFrame) -> list[dict[str, str]]:
    """The paper's Table 5 as rows of text: mean ± standard deviation over seeds, by size."""
    rows = []
    for size, group in runs.groupby("size", sort=False):
        for what, mix in RATIOS.items():
            chosen = group[group["mix"] == mix]
            if chosen.empty:
                continue
            name = "1:1:1" if what == "baseline" else f"+ {what} ({mix.replace('-', ':')})"
            cells = {column.replace("_", " "): _spread(chosen[column].dropna()) for column in COLUMNS}
            rows.append({"size": str(size), "data": name, "seeds": str(chosen["seed"].nunique()), **cells})
    return rows


def number(estimate: dict[str, float]) -> str:
    """A number with its interval."""
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


def write_page(tables: Tables, results: dict[str, Any], figures: Mapping[str, Sequence[Path]], out: str | Path) -> Path:
    """Write the page `out`; the figures (their SVG) are inside it."""
    environment = Environment(autoescape=True)
    environment.filters["number"] = number
    html = environment.from_string(PAGE).render(
        results=results,
        table5=table5(tables.runs),
        titles=TITLES,
        figures={name: _inline(next(p for p in paths if p.suffix == ".svg")) for name, paths in figures.items()},
    )
    out = Path(out)
    with atomic_file(out) as part:
        part.write_text(html, encoding="utf-8")
    return out


def _inline(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _spread(values: pd.Series) -> str:
    if values.empty:
        return "–"
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"
