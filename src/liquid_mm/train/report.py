"""`RUN/report.html`: a run on one page, from what lies in its folder; written anew at each validation and at the end.

Curves are drawn from `metrics.jsonl` into the page itself; pictures are linked, texts quoted, from `samples/step-N/`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment

from liquid_mm.files import atomic_file
from liquid_mm.train.metrics import MODALITIES, read_metrics

CHARTS = {
    "Loss by modality": [("train", f"{name}/loss") for name in MODALITIES[1:]]
    + [("validation", f"{name}/loss") for name in MODALITIES[1:]],
    "Accuracy by modality": [("train", f"{name}/accuracy") for name in MODALITIES[1:]],
    "Logsumexp": [("train", "logsumexp")],
    "Share of image codes predicted": [("train", "code/used"), ("validation", "code/used")],
    "Gradient norm": [("train", "grad_norm")],
    "Learning rate": [("train", "lr")],
    "Tokens per second": [("train", "tokens_per_second")],
    "Model FLOPs utilisation": [("train", "mfu")],
}
"""Title and curves of each chart; curves that never occurred are left out, and charts without any."""

PAGE = Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ name }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
  .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
  svg, img { max-width: 100%; height: auto; }
  pre { white-space: pre-wrap; background: #f4f4f5; padding: .75rem; }
  td { padding-right: 1.5rem; }
</style>
<h1>{{ name }}</h1>
<table>
{% for key, value in last.items() %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
{% if bad %}<p>Steps not taken: {{ bad | join(", ") }}; see <code>bad/</code>.</p>
{% endif %}<div class="charts">
{% for title, svg in charts %}<section><h2>{{ title }}</h2>{{ svg | safe }}</section>
{% endfor %}</div>
{% for step in samples %}<h2>{{ step.name }}</h2>
{% for picture in step.pictures %}<img src="{{ picture }}" alt="{{ picture }}">
{% endfor %}{% for title, text in step.texts %}<h3>{{ title }}</h3><pre>{{ text }}</pre>
{% endfor %}{% endfor %}</html>
"""
)


def write_report(run: Path) -> Path:
    """Write the page of the run folder `run` and return its path."""
    lines = read_metrics(run / "metrics.jsonl")
    curves = {title: _curves(lines, names) for title, names in CHARTS.items()}
    train = [line for line in lines if line["kind"] == "train"]
    last = train[-1] if train else {}
    page = PAGE.render(
        name=run.name,
        last={key: f"{value:.5g}" if isinstance(value, float) else value for key, value in last.items()},
        bad=[line["step"] for line in lines if line["kind"] == "bad"],
        charts=[(title, _svg(found)) for title, found in curves.items() if found],
        samples=[_samples(run, folder) for folder in sorted((run / "samples").glob("step-*"), reverse=True)],
    )
    path = run / "report.html"
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


Curve = tuple[list[int], list[float]]


def _curves(lines: Iterable[dict[str, Any]], names: Iterable[tuple[str, str]]) -> dict[str, Curve]:
    """Steps and values of each of `names` (kind, value) that was ever reported."""
    curves: dict[str, Curve] = {}
    for kind, name in names:
        points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
        if points:
            curves[f"{kind} {name}"] = ([step for step, _ in points], [value for _, value in points])
    return curves


def _svg(curves: dict[str, Curve]) -> str:
    """One chart as an SVG element."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for label, (steps, values) in curves.items():
        axes.plot(steps, values, label=label, marker="." if len(steps) < 20 else None)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _samples(run: Path, folder: Path) -> dict[str, Any]:
    """Pictures (paths relative to the page) and texts of one step."""
    return {
        "name": folder.name,
        "pictures": [path.relative_to(run).as_posix() for path in sorted(folder.glob("*.png"))],
        "texts": [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))],
    }
