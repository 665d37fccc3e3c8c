"""The results of a study as tables for a README, a paper's draft or a pull request: `scaling_results.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment

from liquid_mm.files import atomic_file
from liquid_mm.scaling.collect import Tables
from liquid_mm.scaling.page import number, table5

DOCUMENT = """\
Written by `liquid scaling fit`: {{ results.runs }} runs, \
{{ "%.1f" | format(results.seconds / 3600) }} hours of training, \
{{ "%.1e" | format(results.flops) }} FLOPs.

| question | answer | evidence, 95 % interval |
| --- | --- | --- |
{% for v in results.verdicts -%}
| {{ v.question }} | **{{ v.answer }}** | {{ v.evidence }} |
{% endfor %}
`loss = floor + Σ coefficient / variable^exponent`; *points* are means over seeds, \
R² that of the points and of the runs:

| law | mix | loss | points of runs | floor | exponents | R² | largest size, left out |
| --- | --- | --- | --- | --- | --- | --- | --- |
{% for law in results.laws if not law.refused -%}
| {{ law.law }} | {{ law.mix }} | {{ law.measure | spaced }} | {{ law.n }} of {{ law.runs }} \
| {{ law.floor | number }} | {{ law.exponents | map("number") | join("; ") }} \
| {{ "%.4f" | format(law.r_squared) }}; {{ "%.4f" | format(law.r_squared_of_runs) }} | {{ law | left_out }} |
{% endfor %}
{%- for law in results.laws if law.refused %}
- not fitted: {{ law.law }} of {{ law.measure | spaced }} ({{ law.mix }}), {{ law.refused }}
{%- endfor %}
{% if table5 %}
Ratios of text : generation : understanding, mean ± standard deviation over seeds:

| {{ table5[0] | join(" | ") }} |
|{{ " --- |" * table5[0] | length }}
{% for row in table5 -%}
| {{ row.values() | join(" | ") }} |
{% endfor %}
{%- endif %}
{%- for line in results.left_out %}
- left out: {{ line.cell }}, {{ line.reason }}
{%- endfor %}
"""


def write_markdown(tables: Tables, results: dict[str, Any], out: Path) -> None:
    """Write the file `out`: claims, laws, the paper's Table 5, and what was not fitted or left out."""
    environment = Environment(autoescape=False, keep_trailing_newline=True)
    environment.filters |= {"number": number, "left_out": _left_out, "spaced": lambda name: name.replace("_", " ")}
    text = environment.from_string(DOCUMENT).render(results=results, table5=table5(tables.runs))
    with atomic_file(out) as part:
        part.write_text(text.rstrip() + "\n", encoding="utf-8")


def _left_out(law: dict[str, Any]) -> str:
    """How far the law of the other sizes is from the largest one's loss."""
    guess = law.get("left_out_largest", {})
    return f"{guess['predicted']:.3f} for {guess['measured']:.3f}, {guess['error']:+.2%}" if "error" in guess else ""
