"""A tokenised set as one HTML page: the numbers of `data.summary`, charts, and records with their pictures.

    write_report("report.html", data, summarize(data), image_tokenizer)

The page holds everything within itself, pictures included, so it can be mailed or attached to a run.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.inspect import Decoder
from liquid_mm.data.summary import Summary, spread, summary_rows
from liquid_mm.files import atomic_file
from liquid_mm.vocab.records import Chat, Record, TextToImage

SAMPLES = 24
BINS = 30
CURVE_WIDTH, CURVE_HEIGHT = 600, 160


def write_report(path: str | Path, data: TokenizedSet, summary: Summary, decoder: Decoder | None) -> None:
    """Write the report on `data`.

    Args:
        path: the HTML file.
        data: the set.
        summary: of that set.
        decoder: turns codes into pictures; None leaves them out.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    charts = {"characters of text per record": _histogram(summary.characters)}
    if summary.ids is not None:
        charts["ids per record"] = _histogram(summary.ids.lengths)
    page = environment.get_template("report.html").render(
        name=data.path.name,
        facts=summary_rows(summary),
        charts=charts,
        sizes=_bars(dict(summary.sizes)),
        curve=_curve(summary.code_counts),
        most=int(summary.code_counts.max(initial=0)),
        curve_size=(CURVE_WIDTH, CURVE_HEIGHT),
        samples=[_sample(data.id(index), data[index], decoder) for index in spread(SAMPLES, len(data))],
        pictures_missing=bool(summary.images) and decoder is None,
        rejects=_rejects(data.path),
    )
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


def _histogram(values: NDArray[np.int64]) -> list[tuple[str, int, float]]:
    """Bars for `BINS` equal steps up to the 99th percentile, and one for what lies beyond."""
    top = max(1, int(np.percentile(values, 99)))
    step = -(-top // BINS)
    counts = np.bincount(np.minimum(values // step, BINS))
    return _bars({f"{number * step:,}": int(count) for number, count in enumerate(counts)})


def _bars(counts: dict[str, int]) -> list[tuple[str, int, float]]:
    """(label, count, share of the highest count) of each."""
    highest = max(counts.values(), default=1)
    return [(label, count, count / highest) for label, count in counts.items()]


def _curve(counts: NDArray[np.int64]) -> str:
    """How often each code occurs, the most frequent first, on a logarithmic scale: points of an SVG polyline."""
    ranked = np.sort(counts)[::-1]
    chosen = spread(CURVE_WIDTH // 2, len(ranked))
    heights = np.log1p(ranked[chosen]) / np.log1p(max(1, ranked[0])) if chosen else np.empty(0)
    points = [
        f"{CURVE_WIDTH * index / len(ranked):.1f},{CURVE_HEIGHT * (1 - height):.1f}"
        for index, height in zip(chosen, heights, strict=True)
    ]
    return " ".join(points)


def _sample(name: str, record: Record, decoder: Decoder | None) -> dict[str, Any]:
    """A record's id and its parts in order: texts, and pictures as data URIs."""
    if isinstance(record, Chat):
        parts: list[Any] = []
        for message in record.messages:
            parts += [f"{message.role}:", *message.parts]
    else:
        parts = [record.codes, record.text] if isinstance(record, TextToImage) else [record.text]
    grids = [part for part in parts if not isinstance(part, str)]
    pictures = iter([_data_uri(image) for image in decoder.decode(grids)] if decoder and grids else [])
    shown = [{"text": part[:2000]} if isinstance(part, str) else {"image": next(pictures, None)} for part in parts]
    return {"name": name, "parts": shown}


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _rejects(folder: Path) -> list[dict[str, str]]:
    """The first few records that were left out."""
    path = folder / "rejects.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, 10)]
