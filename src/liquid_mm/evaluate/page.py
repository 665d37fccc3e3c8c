"""index.html: the numbers of an evaluation with what made them, and pictures of what the model did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from liquid_mm.errors import UserError
from liquid_mm.evaluate.predictions import read_predictions
from liquid_mm.evaluate.registry import TASKS
from liquid_mm.files import atomic_file

SHOWN = 48
"""Examples shown per task: the first ones, never picked by hand."""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation of {{ run.checkpoint }}</title><style>
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } .shown { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 15em } img { max-width: 100%; image-rendering: pixelated } figcaption { font-size: 85% }
pre { background: #f5f5f5; padding: 1em; overflow: auto }
</style></head><body>
<h1>{{ run.checkpoint }}</h1><p>model {{ run.model_hash }}</p>
{% for name, task in run.tasks.items() %}
<h2 id="{{ name }}">{{ name }}</h2>
<p>{{ task.n }} examples, data {{ task.data_hash }}</p>
{% for note in task.notes %}<p>{{ note }}</p>{% endfor %}
{% if task["values"] %}<table><tr><th>value</th><th></th><th>95 % interval</th><th>n</th></tr>
{% for metric, v in task["values"].items() %}<tr><td>{{ metric }}</td><td>{{ number(v.value) }}</td>
<td>{% if v.low is not none %}{{ number(v.low) }} – {{ number(v.high) }}{% endif %}</td><td>{{ v.n }}</td></tr>
{% endfor %}</table>{% endif %}
<div class="shown">{% for item in shown[name] %}<figure>
{% for picture in item.pictures %}<img loading="lazy" src="{{ name }}/{{ picture }}" alt="">{% endfor %}
<figcaption>{% for line in item.lines %}{{ line }}<br>{% endfor %}</figcaption></figure>
{% endfor %}</div>
{% endfor %}
<h2>Settings</h2><pre>{{ settings }}</pre><h2>Versions</h2><pre>{{ versions }}</pre>
</body></html>
"""


def write_page(out: Path, results: dict[str, Any]) -> None:
    """Write `out`/index.html from what `results.json` holds; pictures are linked, not copied."""
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise UserError("the results page needs jinja2: run `pip install jinja2`.") from error
    template = Environment(autoescape=True).from_string(TEMPLATE)
    page = template.render(
        run=results,
        shown={name: _shown(out / name, name) for name in results["tasks"]},
        number=lambda value: f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}",
        settings=json.dumps(results["settings"], indent=2),
        versions=json.dumps(results["versions"], indent=2),
    )
    with atomic_file(out / "index.html") as part:
        part.write_text(page, encoding="utf-8")


def _shown(folder: Path, task: str) -> list[dict[str, Any]]:
    fields = TASKS[task].pictures
    items = list(read_predictions(folder).values())[:SHOWN]
    return [{"pictures": [item[f] for f in fields if f in item], "lines": _lines(item)} for item in items]


def _lines(prediction: dict[str, Any]) -> list[str]:
    inputs = prediction["inputs"]
    said = [f"{key}: {inputs[key]}" for key in ("prompt", "question", "answer", "picture") if key in inputs]
    return [*said, *(f"model: {prediction[key]}" for key in ("answer",) if key in prediction)]
